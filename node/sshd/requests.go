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
// two Go channels, opens and requests. It puts each message into one of them before it reads the next
// message. So when a message is received here, every message that was sent before it is in its Go channel or
// was received already. With this one goroutine as the only receiver of both Go channels, the following
// holds:
//
//   - Global requests take effect in the order in which they were sent, and so do channel opens.
//   - A global request takes effect before a channel is admitted that was opened after it: all requests that
//     wait are handled before a channel open.
//   - A global request that was sent after a channel open may take effect before that channel is admitted, if
//     both wait here. A client that cannot accept this waits for the confirmation of its channel.
//   - noMoreSessionsRequest never refuses a session that was opened before it: OpenSSH opens its session and
//     sends the request right after that. A session that was opened after the request is refused, unless its
//     channel open waits here already when the request is handled. A client that got the reply to the request
//     knows that every further session is refused.
//
// A forward request has taken effect when the listener exists or is gone; a channel open, when it is
// authorized and counted in the quota. What follows, as dialling a target, may take seconds and happens on
// the channel's own goroutine.
//
// A panic closes the connection. What arrives until it is closed is dropped, but must be received: x/crypto
// waits for its receiver, and otherwise would not notice that the connection is closed.
func (c *connection) serveRequests(
	ctx context.Context,
	opens <-chan ssh.NewChannel,
	requests <-chan *ssh.Request,
	running *sync.WaitGroup,
) {
	c.receive(ctx, opens, requests, running)
	// This matters only after a panic: otherwise both are closed and empty.
	running.Go(func() { ssh.DiscardRequests(requests) })
	for nc := range opens {
		_ = nc.Reject(ssh.ConnectionFailed, "the connection is closed")
	}
}

// receive is the loop of serveRequests. It returns when the connection is closed and everything that arrived
// before is handled, or after a panic, which it recovers.
func (c *connection) receive(
	ctx context.Context,
	opens <-chan ssh.NewChannel,
	requests <-chan *ssh.Request,
	running *sync.WaitGroup,
) {
	defer c.srv.recoverPanic(c.origin, c.conn)
	for opens != nil || requests != nil { // each is set to nil when it is closed
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
			late := c.noMoreSessions && c.earlierOpens == 0 // opened after noMoreSessionsRequest
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

// handleWaitingRequests handles the requests that have arrived and does not wait for others. It is called for
// a channel open that was received and is not admitted yet: the requests may have been sent before it.
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
			c.handleGlobalRequest(ctx, r, 1+len(opens)) // 1: the open that was received
		default:
			return
		}
	}
}

// handleGlobalRequest performs a global request, and replies if the client wants a reply. waitingOpens is how
// many channel opens have arrived and are not admitted yet: all that were sent before the request, and maybe
// some that were sent after it.
func (c *connection) handleGlobalRequest(ctx context.Context, r *ssh.Request, waitingOpens int) {
	reply, err := c.performGlobalRequest(ctx, r, waitingOpens)
	if err != nil { // only tsh reads why: RFC 4254 has no place for it in the reply
		c.srv.cfg.Log.Debug("request refused", "user", c.who().Name, "request", printable(r.Type), "err", err)
		if c.origin.readsFaults() {
			reply = faultObject(err)
		}
	}
	_ = r.Reply(err == nil, reply) // fails only if the connection is closed
}

// performGlobalRequest authorizes a global request and does what it asks for. reply is the data of the reply.
// waitingOpens is how many channel opens were received and wait to be handled; no-more-sessions does not
// apply to them. The error is a fault that says why the request was refused or why it failed.
func (c *connection) performGlobalRequest(
	ctx context.Context,
	r *ssh.Request,
	waitingOpens int,
) (reply []byte, err error) {
	if r.Type == dial.CertificateUpdate { // decided by the certificate that comes, not by the one that counts
		return nil, c.takeCertificate(r.Payload)
	}
	key := requestKey{globalRequest, r.Type}
	var entry *opened
	if key.needsGrant() {
		entry = c.track(requirements[key].action)
	}
	rule, err := c.authorize(key)
	if err != nil {
		entry.Remove()
		if key.needsGrant() {
			c.auditRefusal(rule, describeRequest(r.Type, r.Payload), err)
		}
		return nil, err
	}
	switch {
	case r.Type == noMoreSessionsRequest:
		if !c.noMoreSessions { // only the first counts: a second would admit opens that came after the first
			c.noMoreSessions, c.earlierOpens = true, waitingOpens
		}
	case key.needsGrant():
		return c.handleForwardRequest(ctx, r, rule, entry)
	}
	return nil, nil // no-more-sessions, or a keepalive, of which the client only awaits the reply
}
