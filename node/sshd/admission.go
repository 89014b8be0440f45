package sshd

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/forward"
)

// maxSessions is how many session channels one connection may have open.
const maxSessions = 64

// admitChannel decides about a channel that the client opens. If it refuses, it rejects the channel with the
// reason and returns nil. If it admits, the channel has its place in the quota, and the caller must call
// serve exactly once, on a goroutine of its own: serve accepts the channel, serves it to its end, and
// releases the quota. late says that the client opened the channel after it had announced to open no further
// sessions.
//
// It runs on the goroutine of serveRequests, for which all other requests of the connection wait, so it does
// not connect to a target: serve does.
func (c *connection) admitChannel(ctx context.Context, nc ssh.NewChannel, late bool) (serve func()) {
	key := requestKey{channelOpen, nc.ChannelType()}
	var entry *opened
	if key.needsGrant() {
		entry = c.track(requirements[key].action)
	}
	rule, err := c.authorize(key)
	if err != nil {
		entry.Remove()
		reason := ssh.UnknownChannelType
		if _, known := requirements[key]; known { // an unknown type is only refused: a client may invent any
			reason = ssh.Prohibited
			c.auditRefusal(rule, describeRequest(key.name, nc.ExtraData()), err)
		}
		_ = nc.Reject(reason, c.rejectionText(err))
		return nil
	}
	if key.needsGrant() { // a forward; a session channel itself needs no grant, but its program will
		serve, err := c.prepareDirect(ctx, nc, rule, entry)
		if err != nil {
			entry.Remove()
			_ = nc.Reject(forward.RejectionReason(err), c.rejectionText(err))
		}
		return serve
	}
	early, err := dial.ParseEarlyRequests(nc.ExtraData())
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, c.rejectionText(malformedFault("for a session", err)))
		return nil
	}
	if err := c.reserveSession(late); err != nil {
		_ = nc.Reject(ssh.ResourceShortage, c.rejectionText(err))
		return nil
	}
	return func() { c.serveSession(ctx, nc, early) }
}

// serveSession accepts a session channel and serves it until it ends. The caller has reserved its place by
// reserveSession, which serveSession releases. early are the requests that came with the channel open.
func (c *connection) serveSession(ctx context.Context, nc ssh.NewChannel, early []dial.ChannelRequest) {
	defer c.releaseSession()
	ch, requests, err := nc.Accept()
	if err != nil {
		return // the connection is closed
	}
	defer ssh.DiscardRequests(requests) // until the client has closed it: x/crypto waits for a receiver
	defer c.srv.recoverPanic(c.origin, c.conn)
	defer ch.Close()
	newSessionChannel(c, ch).serve(ctx, early, requests)
}

// reserveSession counts one more session channel of the connection. Each success needs one releaseSession.
// The error is a fault: Exhausted for one more than maxSessions, Denied for a channel that is late
// (admitChannel).
func (c *connection) reserveSession(late bool) error {
	if late {
		return sessionsEndedByClient.New("node")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions >= maxSessions {
		return sessionsConnectionFull.New("node", fault.Args{"count": c.sessions})
	}
	c.sessions++
	return nil
}

// releaseSession counts one session channel less, and lets watch notice that nothing may be open any more.
func (c *connection) releaseSession() {
	c.mu.Lock()
	c.sessions--
	c.mu.Unlock()
	c.wake()
}

// acquireSession counts one more session of a user on this node, over all connections, certificates and
// logins. limit is max_sessions of the user's roles; without a rule there is none. The error is a fault of
// kind Exhausted: the limit is reached. Each success needs one sessionsPerUser.Release.
func (s *Server) acquireSession(who identity.Identity, limit access.Limit[int]) error {
	bound := -1 // none
	if limit.Rule != "" {
		bound = max(limit.Value, 0) // a negative value must not lift the limit
	}
	held, ok := s.sessionsPerUser.TryAcquire(who.UserKey(), bound)
	if ok {
		return nil
	}
	node := s.cfg.Identity().Name
	return sessionsUserFull.New("node", fault.Args{
		"user":  who.Name,
		"held":  held,
		"node":  node,
		"rule":  limit.Rule,
		"bound": bound,
	})
}
