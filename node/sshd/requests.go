package sshd

import (
	"context"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
)

// noMoreSessionsRequest says that the client will open no further sessions (OpenSSH PROTOCOL section 2.2).
const noMoreSessionsRequest = "no-more-sessions@openssh.com"

// serveRequests receives the connection's global requests and channel opens, in order, until the connection
// is closed. Each channel that it admits is served on a goroutine of running.
//
// On the wire both are one sequence, and clients rely on it: OpenSSH sends its tcpip-forward requests without
// waiting for replies, and then opens channels to the ports that they listen on. x/crypto delivers them in
// two Go channels. Its mux puts each packet into one of them before it reads the next, so that whatever was
// sent before a packet is in its Go channel when the packet is received. With this one goroutine as the only
// receiver of both, the following holds:
//
//   - Global requests take effect in the order in which they were sent, and so do channel opens.
//   - A global request takes effect before any channel that was opened after it is admitted: all requests
//     that wait are handled first.
//   - A global request that was sent after a channel open may take effect before that channel is admitted,
//     while both wait here. A client that cannot accept this waits for the confirmation of its channel.
//   - noMoreSessionsRequest never refuses a session that was opened before it, because OpenSSH sends it right
//     after its own. It refuses those opened after it, unless they are here already when it is handled. A
//     client that asked for a reply and got it knows that every further session is refused.
//
// To take effect means that a listener exists or is gone, and that an open has been authorized and has its
// quota. What a channel does then has a goroutine of its own: dialling may take seconds.
//
// A panic closes the connection. What arrives until then is dropped, but received: the mux waits for its
// receiver and would not notice that the connection is closed.
func (c *connection) serveRequests(
	ctx context.Context,
	opens <-chan ssh.NewChannel,
	requests <-chan *ssh.Request,
	running *sync.WaitGroup,
) {
	c.receive(ctx, opens, requests, running)
	running.Go(func() { ssh.DiscardRequests(requests) })
	for nc := range opens {
		_ = nc.Reject(ssh.ConnectionFailed, "the connection is closed")
	}
}

// receive is the loop of serveRequests. It returns when the connection is closed and all that arrived before
// is handled, or after a panic.
func (c *connection) receive(
	ctx context.Context,
	opens <-chan ssh.NewChannel,
	requests <-chan *ssh.Request,
	running *sync.WaitGroup,
) {
	defer c.srv.recoverPanic(c.origin, c.conn)
	for opens != nil || requests != nil { // nil: closed
		select {
		case r, ok := <-requests:
			if !ok {
				requests = nil
				continue
			}
			c.handleGlobalRequest(ctx, r, len(opens))
		case nc, ok := <-opens:
			if !ok {
				opens = nil
				continue
			}
			c.handleWaitingRequests(ctx, requests, opens)
			late := c.noMoreSessions && c.earlierOpens == 0
			c.earlierOpens = max(c.earlierOpens-1, 0)
			if serve := c.admitChannel(ctx, nc, late); serve != nil {
				giveBack := c.srv.windows.assign(nc)
				running.Go(func() {
					defer c.srv.recoverPanic(c.origin, c.conn)
					defer giveBack()
					serve()
				})
			}
		}
	}
}

// handleWaitingRequests handles the requests that have arrived, while a channel open waits that was received
// after them.
func (c *connection) handleWaitingRequests(
	ctx context.Context,
	requests <-chan *ssh.Request,
	opens <-chan ssh.NewChannel,
) {
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				return
			}
			c.handleGlobalRequest(ctx, r, 1+len(opens))
		default:
			return
		}
	}
}

// handleGlobalRequest answers a global request. waitingOpens is how many channel opens wait to be admitted:
// at least all that were sent before the request.
func (c *connection) handleGlobalRequest(ctx context.Context, r *ssh.Request, waitingOpens int) {
	reply, err := c.performGlobalRequest(ctx, r, waitingOpens)
	if err != nil {
		c.srv.cfg.Log.Debug("request refused", "user", c.who.Name, "request", printable(r.Type), "err", err)
		if dial.ReadsRefusalReasons(c.conn.ClientVersion()) {
			reply = []byte(rejectionText(err))
		}
	}
	_ = r.Reply(err == nil, reply) // fails only if the connection is closed
}

// performGlobalRequest authorizes a global request and does what it asks for.
func (c *connection) performGlobalRequest(
	ctx context.Context,
	r *ssh.Request,
	waitingOpens int,
) (reply []byte, err error) {
	key := requestKey{globalRequest, r.Type}
	rule, err := c.authorize(key)
	if err != nil {
		if key.needsGrant() {
			c.auditRefusal(rule, describeRequest(r.Type, r.Payload), err)
		}
		return nil, err
	}
	switch {
	case r.Type == noMoreSessionsRequest:
		if !c.noMoreSessions {
			c.noMoreSessions, c.earlierOpens = true, waitingOpens
		}
	case key.needsGrant():
		return c.handleForwardRequest(ctx, r, rule)
	}
	return nil, nil
}
