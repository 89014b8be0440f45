package sshd

import (
	"context"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/forward"
)

// connection is an SSH connection that is logged in. Its goroutines belong to serve, which waits for all but
// the third:
//
//   - serve itself receives global requests and channel opens (serveRequests);
//   - one watches the limits and ends the connection (watch, end);
//   - one waits for the transport to close;
//   - one serves each channel.
//
// Those that do more than wait recover their own panics, by Server.recoverPanic.
type connection struct {
	srv    *Server
	conn   *ssh.ServerConn
	origin Origin
	key    ssh.PublicKey // the certificate that the client proved to hold
	who    identity.SSHUser
	login  identity.Login
	clock  *limitClock

	forwards *forward.Forwarder
	// agentSocket returns the socket by which programs reach the client's SSH agent. There is one for each
	// connection.
	agentSocket func(rule string) (path string, err error)
	// wakeups has a value when something on the connection has ended since watch last received from it.
	wakeups chan struct{}

	// noMoreSessions and earlierOpens belong to the goroutine of serveRequests; see there.
	noMoreSessions bool
	earlierOpens   int

	// mu guards the fields below. While it is held, only locks are taken under which it is never taken
	// itself: those of sessionsPerUser and forwards. announceMu of a messageWriter is only tried.
	mu        sync.Mutex
	live      map[*program]struct{} // programs that were admitted and whose end the client was not told yet
	endReason *endReason            // set once the node ends the connection; nothing starts after that
	helper    *asaccount.Sockets    // the account helper; nil until something is forwarded
	sessions  int                   // session channels that are open
	refusals  int                   // refusals so far
}

func newConnection(s *Server, sc *ssh.ServerConn, origin Origin, e evidence) *connection {
	return &connection{
		srv:     s,
		conn:    sc,
		origin:  origin,
		key:     e.key,
		who:     e.who,
		login:   e.login,
		clock:   newLimitClock(e.who.Expires),
		wakeups: make(chan struct{}, 1),
		live:    map[*program]struct{}{},
	}
}

// serve serves the connection until the client hangs up, ctx ends, or the node ends the connection. It
// returns when nothing of the connection is left.
//
// It uses two contexts. The connection's ends when the transport is closed; ending it closes the transport.
// Within it, that of the sessions ends earlier when the node ends the connection, with the reason as its
// cause: programs are hung up on while the client can still be told.
func (c *connection) serve(ctx context.Context, opens <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	sessions, endSessions := context.WithCancelCause(ctx)
	defer endSessions(nil)
	c.forwards = c.newForwards()
	defer func() { cancel(); c.closeForwards() }()
	c.agentSocket = func(rule string) (string, error) { return c.forwards.Agent(sessions, rule) }

	// This ends the connection also while serveRequests is busy with a request. serve does not wait for it:
	// after a packet that x/crypto/ssh refuses, Wait never returns if the client has sent more packets than
	// x/crypto/ssh buffers. It closes opens and requests before that.
	go func() {
		_ = c.conn.Wait()
		cancel()
	}()
	var running sync.WaitGroup
	running.Go(func() {
		defer c.srv.recoverPanic(c.origin, c.conn)
		if reason := c.watch(ctx); reason != nil {
			c.end(ctx, reason, endSessions)
			cancel()
		}
	})
	c.serveRequests(sessions, opens, requests, &running)
	cancel()
	running.Wait()
}

// wake makes watch look at the connection again, because something on it has ended.
func (c *connection) wake() {
	select {
	case c.wakeups <- struct{}{}:
	default:
	}
}

// idle reports whether nothing is open on the connection.
func (c *connection) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions == 0 && c.forwards.OpenCount() == 0
}

// announce writes a line to every terminal of the connection. A client that reads no output misses it.
func (c *connection) announce(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.live {
		if p.hasTerminal {
			p.messages.announce(line)
		}
	}
}
