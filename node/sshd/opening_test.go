package sshd_test

import (
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/dial"
)

func command(line string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "exec", Payload: execPayload(line)}
}

func variable(name, value string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "env", Payload: ssh.Marshal(struct{ Name, Value string }{name, value})}
}

var xterm = dial.ChannelRequest{Type: "pty-req", Payload: ssh.Marshal(struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}{"xterm-test", 97, 31, 0, 0, "\x00"})}

// runInOpening opens a session channel with early requests, ends its input, and returns the result once the
// node has closed the channel.
func runInOpening(t *testing.T, c *ssh.Client, early ...dial.ChannelRequest) result {
	t.Helper()
	extra, fits := dial.MarshalEarlyRequests(early)
	if !fits {
		t.Fatal("the opening does not fit")
	}
	ch, requests, err := c.OpenChannel("session", extra)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	r := result{status: -1}
	var outputs sync.WaitGroup
	outputs.Go(func() { b, _ := io.ReadAll(ch); r.out = string(b) })
	outputs.Go(func() { b, _ := io.ReadAll(ch.Stderr()); r.err = string(b) })
	_ = ch.CloseWrite()
	for req := range requests {
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
		if req.Type == "exit-status" {
			r.status = int(binary.BigEndian.Uint32(req.Payload))
		}
	}
	outputs.Wait()
	return r
}

// Requests in the message that opens the channel prepare and start a program, and only one.
func TestAProgramRequestedInTheOpening(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	got := runInOpening(
		t,
		c,
		variable("LANG", "ko_KR.UTF-8"),
		variable("LD_PRELOAD", "x"),
		command(`echo "$LANG$LD_PRELOAD"; echo err >&2; exit 7`),
	)
	if got.out != "ko_KR.UTF-8\n" || got.err != "err\n" || got.status != 7 {
		t.Errorf("got %+v, want the command with the one variable that clients may set, and 7", got)
	}
	got = runInOpening(t, c, xterm, command("echo $TERM; stty size"))
	if got.out != "xterm-test\r\n31 97\r\n" || got.status != 0 {
		t.Errorf("got %+v, want a terminal of that kind and size", got)
	}
	if got := runInOpening(t, c, command("echo one"), command("echo two")); got.out != "one\n" {
		t.Errorf("got %+v, want one program for each session", got)
	}
	if n := len(f.recorded(audit.SessionStarted)); n != 3 {
		t.Errorf("got %d starts recorded, want 3", n)
	}
}

func TestRequestsInTheOpeningAndOnTheChannelCombine(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	extra, _ := dial.MarshalEarlyRequests([]dial.ChannelRequest{variable("LANG", "C")})
	ch, reqs, err := f.client().OpenChannel("session", extra)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("exec", true, command("echo $LANG").Payload); !ok || err != nil {
		t.Fatalf("got %v, %v, want the command started", ok, err)
	}
	if b, err := io.ReadAll(ch); string(b) != "C\n" || err != nil {
		t.Errorf("got %q, %v, want C", b, err)
	}
}

// A program that is requested in the opening needs the same grant as one that is requested later.
func TestAnOpeningThatNoRoleAllows(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops", "list", "forward-agent"))
	c := f.client()
	for name, a := range map[string]dial.ChannelRequest{
		"exec":  command("echo x"),
		"shell": {Type: "shell"},
		"sftp":  {Type: "subsystem", Payload: ssh.Marshal(struct{ Name string }{"sftp"})},
		"other": {Type: "subsystem", Payload: ssh.Marshal(struct{ Name string }{"other"})},
	} {
		got := runInOpening(t, c, a)
		if got.out != "" || got.status != 126 || strings.Count(got.err, "threshold: error: ") != 1 ||
			!strings.Contains(got.err, "threshold: hint: ") {
			t.Errorf("%s: got %+v, want the reason once, and status 126", name, got)
		}
	}
	if n := len(f.recorded(audit.SessionRefused)); n != 3 {
		t.Errorf("got %d refusals recorded, want 3", n)
	}
	if n := len(f.recorded(audit.SessionStarted)); n != 0 {
		t.Errorf("got %d starts recorded, want none", n)
	}
}

// The requests in the message that opens the channel, or the payload of one of them, cannot be read.
func TestMalformedOpenings(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	for name, extra := range map[string]string{
		"a request cut off": "\x00\x00\x00\x04exec\x00\x00\x00\x09x",
		"more than allowed": "\x00\x00\x00\x04exec" + "\x00\x01\x00\x00" + strings.Repeat("x", 1<<16),
	} {
		_, _, err := c.OpenChannel("session", []byte(extra))
		if err == nil || !strings.Contains(err.Error(), "could not be read") {
			t.Errorf("%s: got %v, want the channel refused with the reason", name, err)
		}
	}
	cutOff := dial.ChannelRequest{Type: "exec", Payload: []byte("\x00\x00\x00\x09x")}
	got := runInOpening(t, c, cutOff)
	if got.status != 126 || !strings.Contains(got.err, "could not be read") {
		t.Errorf("a command cut off: got %+v, want the reason and status 126", got)
	}
	if n := len(f.recorded(audit.SessionStarted)); n != 0 {
		t.Errorf("got %d starts recorded, want none", n)
	}
}

func TestAFloodOfRequestsInAnOpening(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	var early []dial.ChannelRequest
	for range 1000 {
		early = append(early, variable("LANG", "C"), dial.ChannelRequest{Type: "no-such@example.com"})
	}
	if got := runInOpening(t, f.client(), append(early, command("echo live"))...); got.out != "live\n" {
		t.Errorf("got %+v, want the command to run after them", got)
	}
}
