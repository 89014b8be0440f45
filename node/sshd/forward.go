package sshd

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/forward"
)

// forwarding makes what serves the connection's forwards. It starts nothing.
func (c *connection) forwarding() *forward.Forwards {
	return forward.New(forward.Config{Room: c.srv.room, From: c.visit.from, Client: c.conn, Account: c.account, Permit: c.permit, Record: c.recordForward,
		Heard: c.leash.forwarded, Resolve: c.srv.cfg.Resolve, Guard: func(work func()) { defer c.srv.rescue(c.visit, c.conn); work() }})
}

// release ends what is forwarded, once the connection's context has ended. The account's process goes first and takes its sockets along:
// it might not answer, and there may be many.
func (c *connection) release() {
	c.mu.Lock()
	reach := c.reach
	c.mu.Unlock()
	if reach != nil {
		reach.Close()
	}
	c.forwards.Close()
}

// account is what forwards reach things as. It looks the account up each time, and nothing is forwarded on a connection that must end.
func (c *connection) account() (forward.Account, error) {
	acc, err := c.srv.cfg.Accounts.Admit(c.login)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ending != nil:
		return nil, c.ending.err
	case c.srv.stopping():
		return nil, c.srv.stop.err
	}
	if c.reach == nil {
		c.reach = c.srv.cfg.Accounts.Reach(acc)
	}
	return c.reach, nil
}

// permit decides anew about everyone who comes to a listener: what it was allowed by may be gone.
func (c *connection) permit(way forward.Way) error {
	d := door{atGlobal, forward.ListenTCP}
	if way == forward.Agent {
		d = door{atSession, forward.AskAgent}
	}
	rule, err := c.authorize(d)
	if err != nil {
		c.refused(rule, d.name, err)
	}
	return err
}

func (c *connection) recordForward(way forward.Way, target, rule string) error {
	e := c.srv.event(audit.ForwardStarted, c.visit, c.who.Identity, c.login, rule)
	e.Fields = map[string]string{"way": string(way), "target": audit.Cut(clean(target)), "by": c.visit.by}
	return c.srv.cfg.Record(e)
}

// direct prepares a channel that goes out from the node. Its place is taken before anything is begun.
func (c *connection) direct(ctx context.Context, nc ssh.NewChannel, rule string) (serve func(), err error) {
	to, err := forward.Parse(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		return nil, err
	}
	leave, err := c.forwards.Enter()
	if err != nil {
		return nil, err
	}
	return func() {
		defer c.nudge()
		defer leave()
		if err := c.forwards.Direct(ctx, nc, to, rule); err != nil {
			if fault.Is(err, fault.Denied) {
				c.refused(rule, named(nc.ChannelType(), to), err)
			}
			_ = nc.Reject(forward.Rejection(err), channelWords(err))
		}
	}, nil
}

// listen answers the global requests about listeners, once they are authorised.
func (c *connection) listen(ctx context.Context, r *ssh.Request, rule string) (reply []byte, err error) {
	at, err := forward.Parse(r.Type, r.Payload)
	if err != nil {
		return nil, err
	}
	if r.Type == forward.CancelTCP || r.Type == forward.CancelSocket {
		return nil, c.forwards.Cancel(at)
	}
	reply, err = c.forwards.Listen(ctx, at, rule)
	if fault.Is(err, fault.Denied) {
		c.refused(rule, named(r.Type, at), err)
	}
	if at.Path != "" || at.Port != 0 {
		reply = nil // RFC 4254 section 7.1: the port is told where the client left it open
	}
	return reply, err
}

// named is a request or channel with its target, for the record.
func named(what string, target forward.Target) string {
	return audit.Cut(what + " " + clean(target.String()))
}

// told is what a refused request or channel was about, as far as it can be read.
func told(what string, data []byte) string {
	target, err := forward.Parse(what, data)
	if err != nil {
		return what
	}
	return named(what, target)
}
