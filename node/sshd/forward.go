package sshd

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/forward"
)

// newForwards makes what serves the connection's forwards. It starts nothing.
func (c *connection) newForwards() *forward.Forwarder {
	return forward.New(forward.Config{
		Limits:     c.srv.forwardLimits,
		ClientAddr: c.attempt.from,
		Client:     c.conn,
		Sockets:    c.forwardAccount,
		Permit:     c.reauthorizeForward,
		Audit:      c.auditForward,
		OnData:     c.clock.markForwarded,
		Resolve:    c.srv.cfg.Resolve,
		Guard:      func(work func()) { defer c.srv.recoverPanic(c.attempt, c.conn); work() },
	})
}

// closeForwards ends what is forwarded, once the connection's context has ended. The account's process goes
// first and takes its sockets along: it might not answer, and there may be many.
func (c *connection) closeForwards() {
	c.mu.Lock()
	reach := c.helper
	c.mu.Unlock()
	if reach != nil {
		reach.Close()
	}
	c.forwards.Close()
}

// forwardAccount is what forwards reach things as. It looks the account up each time, and nothing is
// forwarded on a connection that must end.
func (c *connection) forwardAccount() (forward.Sockets, error) {
	acc, err := c.srv.cfg.Accounts.Admit(c.login)
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
		c.helper = asaccount.New(c.srv.cfg.Accounts, acc)
	}
	return c.helper, nil
}

// reauthorizeForward decides anew about everyone who comes to a listener: what it was allowed by may be gone.
func (c *connection) reauthorizeForward(way forward.Direction) error {
	d := requestKey{globalRequest, forward.ListenTCP}
	if way == forward.Agent {
		d = requestKey{channelRequest, forward.AgentRequest}
	}
	rule, err := c.authorize(d)
	if err != nil {
		c.auditRefusal(rule, d.name, err)
	}
	return err
}

func (c *connection) auditForward(way forward.Direction, target, rule string) error {
	e := c.srv.newEvent(audit.ForwardStarted, c.attempt, c.who.Identity, c.login, rule)
	e.Fields = map[string]string{
		"way":    string(way),
		"target": audit.Truncate(stripControls(target)),
		"by":     c.attempt.by,
	}
	return c.srv.cfg.Audit(e)
}

// prepareDirect prepares a channel that goes out from the node. Its place is taken before anything is begun.
func (c *connection) prepareDirect(
	ctx context.Context,
	nc ssh.NewChannel,
	rule string,
) (serve func(), err error) {
	to, err := forward.Parse(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		return nil, err
	}
	leave, err := c.forwards.Acquire()
	if err != nil {
		return nil, err
	}
	return func() {
		defer c.wake()
		defer leave()
		if err := c.forwards.Direct(ctx, nc, to, rule); err != nil {
			if fault.Is(err, fault.Denied) {
				c.auditRefusal(rule, describeTarget(nc.ChannelType(), to), err)
			}
			_ = nc.Reject(forward.RejectionReason(err), rejectionText(err))
		}
	}, nil
}

// handleForwardRequest answers the global requests about listeners, once they are authorised.
func (c *connection) handleForwardRequest(
	ctx context.Context,
	r *ssh.Request,
	rule string,
) (reply []byte, err error) {
	at, err := forward.Parse(r.Type, r.Payload)
	if err != nil {
		return nil, err
	}
	if r.Type == forward.CancelTCP || r.Type == forward.CancelStreamlocal {
		return nil, c.forwards.Cancel(at)
	}
	reply, err = c.forwards.Listen(ctx, at, rule)
	if fault.Is(err, fault.Denied) {
		c.auditRefusal(rule, describeTarget(r.Type, at), err)
	}
	if at.Path != "" || at.Port != 0 {
		reply = nil // RFC 4254 section 7.1: the port is told where the client left it open
	}
	return reply, err
}

// describeTarget is a request or channel with its target, for the record.
func describeTarget(what string, target forward.Target) string {
	return audit.Truncate(what + " " + stripControls(target.String()))
}

// describeRequest is what a refused request or channel was about, as far as it can be read.
func describeRequest(what string, data []byte) string {
	target, err := forward.Parse(what, data)
	if err != nil {
		return what
	}
	return describeTarget(what, target)
}
