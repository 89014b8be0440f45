package sshd

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/forward"
)

// newForwards returns the forwarder of the connection, whose decisions and audit events come from here. It
// starts nothing.
func (c *connection) newForwards() *forward.Forwarder {
	return forward.New(forward.Config{
		Limits:     c.srv.forwardLimits,
		ClientAddr: c.origin.From.String(),
		Client:     c.conn,
		Sockets:    c.forwardSockets,
		Admit:      c.admitForward,
		Audit:      c.auditForward,
		OnData:     c.clock.markForwarded,
		Resolve:    c.srv.cfg.Resolve,
		Guard: func(work func()) { // runs each goroutine of the forwarder
			defer c.srv.recoverPanic(c.origin, c.conn)
			work()
		},
	})
}

// closeForwards ends everything that is forwarded, and waits for it. The caller must have ended the
// connection's context. closeForwards first closes c.sockets, which ends the account helper and with it all
// of the helper's sockets at once: to close them one by one it would ask the helper, which may not answer.
func (c *connection) closeForwards() {
	c.mu.Lock()
	sockets := c.sockets
	c.mu.Unlock()
	if sockets != nil {
		sockets.Close()
	}
	c.forwards.Close()
}

// forwardSockets returns what opens sockets with the rights of the account: the same for all forwards of the
// connection. The account is looked up each time, because it may be gone since the login. The error is a
// fault: the account may not be used any more, or the connection or node is about to end.
func (c *connection) forwardSockets() (forward.Sockets, error) {
	account, err := c.srv.cfg.Accounts.Admit(c.login)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.endReason != nil:
		return nil, c.endReason.err
	case c.srv.isDraining():
		return nil, c.srv.stopReason.err
	}
	if c.sockets == nil {
		c.sockets = asaccount.New(c.srv.cfg.Accounts, account)
	}
	return c.sockets, nil
}

// admitForward returns no error if a connection that has arrived at a listener may be forwarded. The caller
// calls closed when it has ended, and ends it when allowed ends. It asks the rules again, because the grant
// by which the listener was opened may be gone, and audits a refusal.
func (c *connection) admitForward(
	direction forward.Direction,
) (allowed context.Context, closed func(), err error) {
	key := requestKey{globalRequest, forward.ListenTCP}
	if direction == forward.Agent {
		key = requestKey{channelRequest, forward.AgentRequest}
	}
	entry := c.track(requirements[key].action)
	rule, err := c.authorize(key)
	if err != nil {
		entry.Remove()
		c.auditRefusal(rule, key.name, err)
		return nil, nil, err
	}
	return entry.allowed, entry.Remove, nil
}

// auditForward records that something is forwarded to or from the target, allowed by the rule. It returns nil
// when the event is safe on disk.
func (c *connection) auditForward(direction forward.Direction, target, rule string) error {
	return c.srv.cfg.Audit(c.newEvent(audit.ForwardStart{
		Login:    c.login,
		Forward:  string(direction),
		Target:   audit.Truncate(sshprofile.Clean(target)),
		Protocol: c.origin.Protocol,
		Rule:     rule,
	}))
}

// prepareDirect acquires the quota for a channel that the client opens to a target on the node's side. The
// channel is registered by the entry and authorized by the rule. The caller must call serve exactly once, on
// a goroutine of its own: serve connects to the target, accepts the channel and copies bytes until either
// ends, or rejects the channel if there is no connection; then it releases the quota and removes the entry.
// The error says why the caller must reject the channel, and remove the entry: it cannot be read, or the
// quota is used up.
func (c *connection) prepareDirect(
	ctx context.Context,
	nc ssh.NewChannel,
	rule string,
	entry *opened,
) (serve func(), err error) {
	target, err := forward.Parse(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		return nil, err
	}
	release, err := c.forwards.Acquire()
	if err != nil {
		return nil, err
	}
	return func() {
		defer c.wake() // after release, so that watch finds the connection idle
		defer release()
		defer entry.Remove()
		ctx, stop := entry.during(ctx)
		defer stop()
		if err := c.forwards.Direct(ctx, nc, target, rule); err != nil {
			if fault.Is(err, fault.Denied) { // a target that is never allowed, as a link-local address
				c.auditRefusal(rule, describeTarget(nc.ChannelType(), target), err)
			}
			_ = nc.Reject(forward.RejectionReason(err), c.rejectionText(err))
		}
	}, nil
}

// handleForwardRequest opens or closes a listener, for a global request that is registered by the entry and
// authorized by the rule. The entry is removed when the listener that the request opens is closed, or at once
// if it opens none. reply is the data of the reply to the client. The error is a fault; the refusal of a
// target is audited.
func (c *connection) handleForwardRequest(
	ctx context.Context,
	r *ssh.Request,
	rule string,
	entry *opened,
) (reply []byte, err error) {
	target, err := forward.Parse(r.Type, r.Payload)
	if err != nil {
		entry.Remove()
		return nil, err
	}
	if r.Type == forward.CancelTCP || r.Type == forward.CancelStreamlocal {
		entry.Remove()
		return nil, c.forwards.Cancel(target)
	}
	reply, err = c.forwards.Listen(ctx, target, rule, entry.allowed, entry.Remove)
	if fault.Is(err, fault.Denied) {
		c.auditRefusal(rule, describeTarget(r.Type, target), err)
	}
	if target.Path != "" || target.Port != 0 {
		reply = nil // the reply contains the port only if the client asked for any (RFC 4254 section 7.1)
	}
	return reply, err
}
