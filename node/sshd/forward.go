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

// newForwards makes the forwarder of the connection. It starts nothing.
func (c *connection) newForwards() *forward.Forwarder {
	return forward.New(forward.Config{
		Limits:     c.srv.forwardLimits,
		ClientAddr: c.origin.From,
		Client:     c.conn,
		Sockets:    c.forwardSockets,
		Permit:     c.reauthorizeForward,
		Audit:      c.auditForward,
		OnData:     c.clock.markForwarded,
		Resolve:    c.srv.cfg.Resolve,
		Guard:      func(work func()) { defer c.srv.recoverPanic(c.origin, c.conn); work() },
	})
}

// closeForwards ends what is forwarded, once the connection's context has ended. It ends the account helper
// first, which closes all of its sockets at once: closing them one by one would wait for a helper that may
// not answer.
func (c *connection) closeForwards() {
	c.mu.Lock()
	helper := c.helper
	c.mu.Unlock()
	if helper != nil {
		helper.Close()
	}
	c.forwards.Close()
}

// forwardSockets returns what opens sockets with the rights of the account. It looks the account up each
// time, and refuses on a connection or node that is about to end.
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
	if c.helper == nil {
		c.helper = asaccount.New(c.srv.cfg.Accounts, account)
	}
	return c.helper, nil
}

// reauthorizeForward decides about each connection that arrives at a listener: the grant by which the
// listener was opened may be gone.
func (c *connection) reauthorizeForward(direction forward.Direction) error {
	key := requestKey{globalRequest, forward.ListenTCP}
	if direction == forward.Agent {
		key = requestKey{channelRequest, forward.AgentRequest}
	}
	rule, err := c.authorize(key)
	if err != nil {
		c.auditRefusal(rule, key.name, err)
	}
	return err
}

// auditForward records that something is forwarded to or from the target.
func (c *connection) auditForward(direction forward.Direction, target, rule string) error {
	e := c.newEvent(audit.ForwardStarted, rule)
	e.Fields = map[string]string{
		"way":    string(direction),
		"target": audit.Truncate(sshprofile.Clean(target)),
		"by":     c.origin.Protocol,
	}
	return c.srv.cfg.Audit(e)
}

// prepareDirect acquires the quota for a channel that the client opens to a target. It returns what connects
// the channel to the target and serves it.
func (c *connection) prepareDirect(
	ctx context.Context,
	nc ssh.NewChannel,
	rule string,
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
		defer c.wake()
		defer release()
		if err := c.forwards.Direct(ctx, nc, target, rule); err != nil {
			if fault.Is(err, fault.Denied) {
				c.auditRefusal(rule, describeTarget(nc.ChannelType(), target), err)
			}
			_ = nc.Reject(forward.RejectionReason(err), rejectionText(err))
		}
	}, nil
}

// handleForwardRequest opens or closes a listener, for a global request that is authorized. It returns the
// data of the reply.
func (c *connection) handleForwardRequest(
	ctx context.Context,
	r *ssh.Request,
	rule string,
) (reply []byte, err error) {
	target, err := forward.Parse(r.Type, r.Payload)
	if err != nil {
		return nil, err
	}
	if r.Type == forward.CancelTCP || r.Type == forward.CancelStreamlocal {
		return nil, c.forwards.Cancel(target)
	}
	reply, err = c.forwards.Listen(ctx, target, rule)
	if fault.Is(err, fault.Denied) {
		c.auditRefusal(rule, describeTarget(r.Type, target), err)
	}
	if target.Path != "" || target.Port != 0 {
		reply = nil // the reply names the port only if the client left it open (RFC 4254 section 7.1)
	}
	return reply, err
}
