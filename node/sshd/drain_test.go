package sshd_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
)

// drain begins to stop the server, and gives what ends the time to drain, and what tells that no connection
// is left.
func (r *fixture) drain() (hurry context.CancelFunc, done chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	done = make(chan struct{})
	go func() { defer close(done); r.server.Drain(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	return cancel, done
}

func TestASessionMayFinishWhileTheNodeDrains(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	c, unused := r.client(), r.client()
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	if err := s.Start("read line; exit 3"); err != nil {
		t.Fatal(err)
	}
	_, done := r.drain()
	eventually(
		t,
		"the terminal is told",
		func() bool { return strings.Contains(errs.String(), "\r\nthreshold: this node is about to stop") },
	)
	if err := unused.Wait(); err == nil {
		t.Error("got a connection without sessions ended by the client, want by the node")
	}
	_, banner, err := r.dial(testAccount(), r.signer())
	if err == nil || !strings.Contains(banner, "this node is stopping") ||
		!strings.Contains(banner, "hint: ") {
		t.Errorf("got %v and banner %q, want nobody new let in, and told why", err, banner)
	}
	if got := run(t, c, "echo in", ""); got.status != 126 ||
		!strings.Contains(got.err, "this node is stopping") {
		t.Errorf("got %+v, want no further session on a connection that stays", got)
	}
	if _, err := io.WriteString(in, "bye\n"); err != nil {
		t.Fatal(err)
	}
	if got := resultOf(t, s.Wait(), &out, &errs); got.status != 3 {
		t.Errorf("got %+v, want the program's own status", got)
	}
	receive(t, "the end", done)
	if got := r.recorded(audit.SessionEnded); len(got) != 1 || got[0].Fields["status"] != "3" ||
		got[0].Fields["ended_by"] != "" {
		t.Errorf("got %+v, want one session, ended by itself", got)
	}
}

func TestSessionsEndWhenTheDrainTimeIsOver(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	s := newSession(t, r.client())
	var out, errs syncBuffer
	s.Stdout, s.Stderr = &out, &errs
	if err := s.Start("echo on; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program runs", func() bool { return out.String() != "" })
	hurry, done := r.drain()
	select {
	case <-done:
		t.Fatal("got an end while a session runs")
	case <-time.After(300 * time.Millisecond):
	}
	hurry()
	wantEnded(t, r, resultOf(t, s.Wait(), &out, &errs), "stop", "this node is stopping")
	receive(t, "the end", done)
}

// Channels that were asked for before the end and are opened after it, with requests that nobody takes any
// more, hold up no stop.
func TestLateChannelOpensDoNotBlockShutdown(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	c := r.client()
	came := channelOpens(t, c, "forwarded-tcpip")
	port, err := listenTCP(c, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	var asked []ssh.NewChannel
	for range 5 {
		visitor, err := net.Dial("tcp", loopbackFor("", port))
		if err != nil {
			t.Fatal(err)
		}
		defer visitor.Close()
		asked = append(asked, receive(t, "a visitor", came))
	}
	hurry, done := r.drain()
	hurry()
	eventually(
		t,
		"the connection is ended",
		func() bool { return strings.Contains(r.logged(), "connection ended") },
	)
	for _, nc := range asked {
		if ch, _, err := nc.Accept(); err == nil {
			for range 100 {
				_, _ = ch.SendRequest("more", false, nil)
			}
		}
	}
	receive(t, "the end", done)
}

func TestAnUnusedNodeStopsAtOnce(t *testing.T) {
	r := newFixture(t, nil)
	_, done := r.drain()
	receive(t, "the end", done)
}
