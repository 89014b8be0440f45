package sshd_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
)

// drain begins to drain the server. expire ends the time to drain; done is closed when no connection is left.
func (f *fixture) drain() (expire context.CancelFunc, done chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	done = make(chan struct{})
	go func() { defer close(done); f.server.Drain(ctx) }()
	f.t.Cleanup(func() { cancel(); <-done })
	return cancel, done
}

// When the drain begins, terminals are told, idle connections are closed, nothing new starts, and the session
// that runs ends with its own status.
func TestASessionMayFinishWhileTheNodeDrains(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c, unused := f.client(), f.client()
	s := newSession(t, c)
	requestTerminal(t, s, "xterm")
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	startProgram(t, s, "read line; exit 3")
	_, done := f.drain()
	errs.await(t, "\r\nthreshold: this node is about to stop")
	if err := unused.Wait(); err == nil {
		t.Error("got a connection without sessions ended by the client, want by the node")
	}
	_, banner, err := f.dial(testAccount(), f.signer())
	if err == nil || !strings.Contains(banner, "this node is stopping") ||
		!strings.Contains(banner, "hint: ") {
		t.Errorf("got %v and banner %q, want a new login refused with the reason", err, banner)
	}
	got := run(t, c, "echo in", "")
	if got.status != 126 || !strings.Contains(got.err, "this node is stopping") {
		t.Errorf("got %+v, want no further session on a connection that stays", got)
	}
	fmt.Fprintln(in, "bye")
	if got := resultOf(t, s.Wait(), &out, &errs); got.status != 3 {
		t.Errorf("got %+v, want the program's own status", got)
	}
	receive(t, "the end", done)
	ends := f.recorded(audit.SessionEnded)
	if len(ends) != 1 {
		t.Fatalf("got %d sessions ended, want one", len(ends))
	}
	if end := bodyOf[audit.SessionEnd](t, ends[0]); !hasStatus(end, 3) || end.Cause != "" {
		t.Errorf("got %+v, want it ended by itself", end)
	}
}

// A session goes on during the drain, and is ended with the reason when the time is over.
func TestSessionsEndWhenTheDrainTimeIsOver(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	s := newSession(t, f.client())
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	startProgram(t, s, "cat")
	expire, done := f.drain()
	f.awaitLog(t, "draining: waiting for sessions to end")
	fmt.Fprintln(in, "still here")
	out.await(t, "still here")
	select {
	case <-done:
		t.Fatal("got an end while a session runs")
	default:
	}
	expire()
	wantEnded(t, f, resultOf(t, s.Wait(), &out, &errs), "stop", "this node is stopping")
	receive(t, "the end", done)
}

// Channels that the node opened, and that the client confirms with requests after the end has begun, do not
// delay it.
func TestLateChannelOpensDoNotBlockShutdown(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	opens := channelOpens(t, c, "forwarded-tcpip")
	port, err := listenTCP(c, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	var late []ssh.NewChannel
	for range 5 {
		conn, err := net.Dial("tcp", loopbackFor("", port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		late = append(late, receive(t, "a channel", opens))
	}
	expire, done := f.drain()
	expire()
	f.awaitLog(t, "connection ended")
	for _, nc := range late {
		if ch, _, err := nc.Accept(); err == nil {
			for range 100 {
				_, _ = ch.SendRequest("more", false, nil)
			}
		}
	}
	receive(t, "the end", done)
}

func TestAnUnusedNodeStopsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	_, done := f.drain()
	receive(t, "the end", done)
}
