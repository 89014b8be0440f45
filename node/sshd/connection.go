package sshd

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/forward"
)

// connection is an SSH connection that is logged in. Its goroutines are started by serve:
//
//   - serve itself receives global requests and channel opens (serveRequests);
//   - one sends dial.FeaturesNotice and ends;
//   - one watches the limits and ends the connection (watch, end);
//   - one serves each channel;
//   - one waits for the transport to close.
//
// serve waits for all of them except the last one. serve, watch and channels recover their own panics, by
// Server.recoverPanic.
type connection struct {
	srv    *Server
	conn   *ssh.ServerConn
	origin Origin
	login  identity.Login  // the account that the client logged in as
	clock  *limitClock     // measures how much of the limits of the user's roles is left
	held   *openConnection // the connection as the registry of what is open knows it
	// shown are the certificates that the client has proved to hold, of one user; the last one counts.
	shown atomic.Pointer[[]*credential]
	// denial is why the rules do not allow anything on the connection any more, and it ends; nil: they do.
	denial atomic.Pointer[endReason]

	forwards *forward.Forwarder
	// agentSocket returns the path of the socket by which programs reach the client's SSH agent, and makes
	// the socket if the connection has none yet. rule is the rule that allows it, for the audit log. It
	// removes the entry when the socket that it made is closed, or at once if it makes none.
	agentSocket func(rule string, entry *opened) (path string, err error)
	// wakeups has a value if a session or forward has ended since watch last received from the channel.
	wakeups chan struct{}

	// noMoreSessions and earlierOpens belong to the goroutine of serveRequests; see there.
	noMoreSessions bool // the client has sent noMoreSessionsRequest
	earlierOpens   int  // channel opens that arrived before that request was handled and are not admitted yet

	// mu guards the fields below. Lock order: mu comes before the locks inside sessionsPerUser and forwards,
	// under which it is never taken. A messageWriter's announceMu is only tried while mu is held.
	mu        sync.Mutex
	live      map[*program]struct{} // programs that were admitted and whose end the client was not told yet
	endReason *endReason            // nil until the node ends the connection; nothing starts after that
	sockets   *asaccount.Sockets    // opens the sockets of forwards; nil until something is forwarded
	sessions  int                   // session channels that are open
	refusals  int                   // refusals so far, audited or not
}

// newConnection returns the connection of a client that is logged in. It starts nothing; serve sets forwards
// and agentSocket.
func newConnection(s *Server, sshConn *ssh.ServerConn, origin Origin, proved evidence) *connection {
	c := &connection{
		srv:     s,
		conn:    sshConn,
		origin:  origin,
		login:   proved.login,
		clock:   newLimitClock(),
		wakeups: make(chan struct{}, 1),
		live:    map[*program]struct{}{},
	}
	c.shown.Store(&[]*credential{newCredential(proved.key, proved.who, proved.authorities)})
	c.held = newOpenConnection(c)
	return c
}

// serve serves the connection until the client hangs up, ctx ends, or the node ends the connection. It
// returns when nothing of the connection is left.
//
// There are two contexts. The connection's context, ctx, ends when the transport is closed, and the transport
// is closed when ctx ends. The sessions' context is derived from it. If the node ends the connection, the
// sessions' context ends first, with the reason as its cause: programs are hung up on while the transport is
// still open, so that the client can be told the reason.
func (c *connection) serve(ctx context.Context, opens <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	sessionsCtx, endSessions := context.WithCancelCause(ctx)
	defer endSessions(nil)
	c.forwards = c.newForwards()
	defer func() { cancel(); c.closeForwards() }() // forwards end only after their context has ended
	c.agentSocket = func(rule string, entry *opened) (string, error) {
		return c.forwards.Agent(sessionsCtx, rule, entry.allowed, entry.Remove)
	}

	// This goroutine ends ctx when the transport closes, also while serveRequests is busy with a request.
	// serve does not wait for the goroutine: after a packet that x/crypto/ssh refuses, Wait never returns if
	// the client has sent more packets than x/crypto/ssh buffers. serve ends all the same, because
	// x/crypto/ssh then has closed opens and requests.
	go func() {
		_ = c.conn.Wait()
		cancel()
	}()
	var running sync.WaitGroup
	running.Go(func() { _, _, _ = c.conn.SendRequest(dial.FeaturesNotice, false, featuresNotice) })
	running.Go(func() {
		defer c.srv.recoverPanic(c.origin, c.conn)
		if reason := c.watch(ctx); reason != nil { // nil: the transport is closed already
			c.end(ctx, reason, endSessions)
			cancel()
		}
	})
	c.serveRequests(sessionsCtx, opens, requests, &running)
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
