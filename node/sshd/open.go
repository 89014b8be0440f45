package sshd

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
)

// Run decides again about everything that is open, whenever the rules change, until ctx ends. It returns nil.
func (s *Server) Run(ctx context.Context) error { return s.open.Run(ctx) }

// openConnection is a connection as the holder of everything that is open on it.
type openConnection struct {
	*connection
	use open.Use // of the connection itself, when it was opened
}

// newOpenConnection returns the holder of a connection that is logged in.
func newOpenConnection(c *connection) *openConnection {
	return &openConnection{connection: c, use: open.Use{
		Certificate: c.credential().digest,
		From:        c.origin.clientAddr(),
		Proxy:       c.origin.ProxyID,
		Login:       c.login,
		Node:        c.srv.cfg.Identity().ID,
		Action:      anyAction,
	}}
}

// authoritiesRevision returns the revision of the authorities in the rules.
func authoritiesRevision(trust *rules.Trust) rules.Revision {
	return trust.Head.Docs[rules.AuthoritiesKind].Revision
}

// opened is one thing that is open on a connection, as the registry of what is open knows it.
type opened struct {
	*openConnection
	entry *open.Entry
	// allowed ends, with an endReason as its cause, when the rules do not allow it any more.
	allowed context.Context
	deny    context.CancelCauseFunc // ends allowed
	notify  bool                    // it has no output of its own, so terminals of the connection are told
}

// track registers that something is about to be opened that needs the action. The caller asks the rules after
// that, removes it when it was refused or has ended, and ends it when allowed ends.
func (c *connection) track(action access.Action) *opened {
	o := &opened{openConnection: c.held, notify: !isProgram(action)}
	o.allowed, o.deny = context.WithCancelCause(context.Background())
	use := c.held.use
	use.Certificate, use.Action = c.credential().digest, action
	o.entry = c.srv.open.Add(use, o)
	return o
}

// isProgram reports whether the action runs a program, whose output tells the user why it ends.
func isProgram(action access.Action) bool {
	return action == access.Shell || action == access.Exec || action == access.SFTP
}

// Remove says that it was refused or has ended. Further calls do nothing, nor does a call for nil.
func (o *opened) Remove() {
	if o == nil {
		return
	}
	o.entry.Remove()
	o.deny(nil) // releases the context
}

// during returns a context that ends with ctx, and when the rules do not allow any more what is open, with
// the endReason as its cause. The caller calls stop when it needs the context no longer.
func (o *opened) during(ctx context.Context) (during context.Context, stop func()) {
	during, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(o.allowed, func() { cancel(context.Cause(o.allowed)) })
	return during, func() { release(); cancel(nil) }
}

// denied ends what is open: the rules do not allow it any more, for this reason.
func (o *opened) denied(reason *endReason) {
	o.deny(reason)
	if o.notify {
		o.announce("threshold: a forward has ended: " + fault.Message(reason.err))
	}
}

// denied ends the connection: the rules do not allow anything on it any more.
func (o *openConnection) denied(reason *endReason) {
	if o.denial.CompareAndSwap(nil, reason) {
		o.wake()
	}
}

// endDenied ends what the rules do not allow any more. It does not wait for clients: it runs on the goroutine
// that decides about everything that is open on the node.
func (s *Server) endDenied(denials []open.Denial) {
	s.cfg.Denied(denials)
	for _, denial := range denials {
		reason := denialReason(denial.Reason)
		for _, holder := range denial.Holders {
			holder.(interface{ denied(*endReason) }).denied(reason)
		}
	}
}

// User returns who has the connection open.
func (o *openConnection) User() open.User {
	who := o.who()
	return open.User{Identity: who.Identity, Serial: who.Serial}
}

// Decide decides again about something that is open on the connection, as decide does about what the client
// asks for. But the certificate may have expired, unless the options of the user's roles say that connections
// end with it.
func (o *openConnection) Decide(use open.Use, trust *rules.Trust, now time.Time) error {
	if trust == nil {
		return nodeWithoutRules.New("node")
	}
	if err := trust.Usable(now); err != nil {
		return nodeRulesUnusable.Wrap(err, "node", fault.Args{"why": err.Error()})
	}
	now = trust.Now(now)
	held, certificateTime := o.credentialOf(use), now
	if !access.LimitsOf(trust.Policy, held.who.Identity).EndWithCertificate.Value {
		certificateTime = lastValid(now, held.who.Expires)
	}
	if err := held.verify(trust, o.conn.RemoteAddr(), certificateTime); err != nil {
		return certificateFault(err)
	}
	who := held.who
	who.Expires = time.Time{} // verify has looked at it
	decision := o.srv.decide(trust, who, use.Login, use.Action, now, o.origin)
	if !decision.Allow {
		return accessDenied.New("node", fault.Args{"reason": decision.Reason, "hint": decision.Remedy})
	}
	return nil
}

// lastValid returns now, or the last second of a certificate that has expired.
func lastValid(now, expires time.Time) time.Time {
	if last := expires.Add(-time.Second); now.After(last) {
		return last
	}
	return now
}
