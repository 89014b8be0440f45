package sshd_test

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// A client that sends global requests and then opens a channel may rely on the requests: OpenSSH sends its
// tcpip-forward requests without waiting for the replies, and a chain of -L and -R options opens channels to
// the ports that these requests listen on. This uses Unix sockets, because other tests take free ports.
func TestGlobalRequestsTakeEffectBeforeALaterChannelOpens(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	opens := channelOpens(t, c, "forwarded-streamlocal@openssh.com")
	go func() {
		for nc := range opens {
			if ch, requests, err := nc.Accept(); err == nil {
				go ssh.DiscardRequests(requests)
				_ = ch.Close()
			}
		}
	}()
	var paths []string
	for i := range 9 {
		paths = append(paths, filepath.Join(t.TempDir(), strconv.Itoa(i)))
	}
	send := func(request string) {
		for _, path := range paths {
			if _, _, err := c.SendRequest(request, false, encode(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := encode(paths[len(paths)-1], "", uint32(0))
	for round := range 50 {
		send("streamlocal-forward@openssh.com")
		ch, requests, err := c.OpenChannel("direct-streamlocal@openssh.com", last)
		if err != nil {
			t.Fatalf("round %d: got %v, want the listener there that was requested before", round, err)
		}
		go ssh.DiscardRequests(requests)
		_ = ch.Close()
		send("cancel-streamlocal-forward@openssh.com")
	}
}

// OpenSSH opens its session and says right after it that it wants no more.
func TestNoMoreSessionsDoesNotRefuseAnEarlierSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for round := range 50 {
		raw, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn := &writeCounter{Conn: raw, writes: make(chan struct{}, 1000)}
		c, opens, reqs, err := ssh.NewClientConn(conn, "web-1", &ssh.ClientConfig{
			User:            testAccount(),
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(f.signer())},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		})
		if err != nil {
			t.Fatal(err)
		}
		client := ssh.NewClient(c, opens, reqs)
		for len(conn.writes) > 0 {
			<-conn.writes
		}
		opened := make(chan error, 1)
		go func() {
			_, _, err := client.OpenChannel("session", nil)
			opened <- err
		}()
		<-conn.writes // the open is on its way
		if _, _, err := client.SendRequest("no-more-sessions@openssh.com", false, nil); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, "the first session", opened); err != nil {
			t.Fatalf("round %d: got %v, want the session that was opened before", round, err)
		}
		if _, _, err := client.SendRequest("no-more-sessions@openssh.com", true, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := client.NewSession(); err == nil || !strings.Contains(
			err.Error(),
			"no further sessions",
		) {
			t.Fatalf("round %d: got %v, want a session refused that was opened after the reply", round, err)
		}
		client.Close()
	}
}

// writeCounter is a connection that tells of each write.
type writeCounter struct {
	net.Conn
	writes chan struct{}
}

func (c *writeCounter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.writes <- struct{}{}
	return n, err
}
