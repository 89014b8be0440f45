package sshd

import (
	"context"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/forward"
)

// maxSessions is how many session channels one connection may have open.
const maxSessions = 64

// admitChannel decides about a channel that the client opens. It rejects the channel and returns nil, or it
// returns what serves the channel. late says that the client had announced to open no further sessions.
func (c *connection) admitChannel(ctx context.Context, nc ssh.NewChannel, late bool) (serve func()) {
	key := requestKey{channelOpen, nc.ChannelType()}
	rule, err := c.authorize(key)
	if err != nil {
		reason := ssh.UnknownChannelType
		if _, known := policies[key]; known {
			reason = ssh.Prohibited
			c.auditRefusal(rule, describeRequest(key.name, nc.ExtraData()), err)
		}
		_ = nc.Reject(reason, rejectionText(err))
		return nil
	}
	if key.needsGrant() {
		serve, err := c.prepareDirect(ctx, nc, rule)
		if err != nil {
			_ = nc.Reject(forward.RejectionReason(err), rejectionText(err))
		}
		return serve
	}
	early, err := dial.ParseEarlyRequests(nc.ExtraData())
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, rejectionText(malformed("for a session", err)))
		return nil
	}
	if err := c.reserveSession(late); err != nil {
		_ = nc.Reject(ssh.ResourceShortage, rejectionText(err))
		return nil
	}
	return func() { c.serveSession(ctx, nc, early) }
}

// serveSession serves a session channel that has its place reserved.
func (c *connection) serveSession(ctx context.Context, nc ssh.NewChannel, early []dial.ChannelRequest) {
	defer c.releaseSession()
	ch, requests, err := nc.Accept()
	if err != nil {
		return // the connection is closed
	}
	defer ssh.DiscardRequests(requests)
	defer c.srv.recoverPanic(c.origin, c.conn)
	defer ch.Close()
	newSessionChannel(c, ch).serve(ctx, early, requests)
}

// reserveSession counts one more session channel. It refuses one too many, and one that is opened after the
// client announced to open no further ones.
func (c *connection) reserveSession(late bool) error {
	if late {
		const msg = "this connection accepts no further sessions"
		return fault.New(fault.Denied, "node", msg, "open a new connection")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions >= maxSessions {
		msg := fmt.Sprintf("this connection has %d sessions already", c.sessions)
		return fault.New(fault.Exhausted, "node", msg, "end one, or open a new connection")
	}
	c.sessions++
	return nil
}

func (c *connection) releaseSession() {
	c.mu.Lock()
	c.sessions--
	c.mu.Unlock()
	c.wake()
}

// acquireSession counts one more session of a user on this node, over all connections, certificates and
// logins, unless the limit of the user's roles is reached. Each success needs one sessionsPerUser.Release.
func (s *Server) acquireSession(who identity.Identity, limit access.Limit[int]) error {
	bound := -1
	if limit.Rule != "" {
		bound = max(limit.Value, 0)
	}
	held, ok := s.sessionsPerUser.TryAcquire(who.UserKey(), bound)
	if ok {
		return nil
	}
	node := s.cfg.Identity().Name
	msg := fmt.Sprintf("%s has %d sessions on %s, and %s allows %d", who.Name, held, node, limit.Rule, bound)
	return fault.New(fault.Exhausted, "node", msg, "end another session first")
}
