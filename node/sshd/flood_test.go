package sshd_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
)

// stalled starts a program whose output nobody takes after its first line, which is its process number.
func stalled(t *testing.T, c *ssh.Client) (*ssh.Session, int) {
	t.Helper()
	s := newSession(t, c)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("echo $$; exec yes"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(io.LimitReader(out, 16), 16).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return s, pid
}

func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

func TestWordsThatNobodyReadsHoldNothingUp(t *testing.T) {
	c := newRig(t, nil).client()
	s, pid := stalled(t, c)
	command := ssh.Marshal(struct{ Command string }{"true"})
	for range 100 { // each is refused in words, for which the window has no room; together they are more than any queue holds
		if _, err := s.SendRequest("exec", false, command); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SendRequest("auth-agent-req@openssh.com", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := run(t, c, "echo still here", ""); got.out != "still here\n" {
		t.Errorf("got %+v beside a stalled session, want an answer", got)
	}
	c.Close()
	eventually(t, "the program of a closed connection has ended", func() bool { return gone(pid) })
}

func TestAFloodOfRefusalsIsRecordedInPart(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	for range 500 {
		ch, _, err := c.OpenChannel("direct-tcpip", nil)
		if err == nil {
			ch.Close()
			t.Fatal("port forwarding was opened")
		}
		if ok, _, _ := c.SendRequest("tcpip-forward", true, nil); ok {
			t.Fatal("remote port forwarding was opened")
		}
	}
	if n := len(r.recorded(audit.SessionRefused)); n == 0 || n > 100 {
		t.Errorf("got %d events of 1000 refusals on one connection, want some, and few", n)
	}
	if !strings.Contains(r.logged(), "further refusals on this connection are not recorded") {
		t.Error("nothing says that refusals are left out")
	}
	if got := run(t, c, "echo still here", ""); got.out != "still here\n" {
		t.Errorf("got %+v after the flood, want the connection to go on", got)
	}
}

func TestHandshakesOfOneAddressLeaveRoomForOthers(t *testing.T) {
	r := newRig(t, nil)
	elsewhere := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 80 {
		conn, err := elsewhere.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 4)) // the server's version, or the end of a connection too many
	}
	r.client()
}
