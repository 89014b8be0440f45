package sshd

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/forward"
)

// maxRefusals is how many refusals of one connection are audited. The rest is refused all the same and only
// counted, so that a client that asks again and again fills neither the audit log nor the disk.
const maxRefusals = 32

// newEvent starts an audit event about a user who is logged in, or has proved who they are.
func (s *Server) newEvent(
	code audit.Code,
	origin Origin,
	who identity.Identity,
	login identity.Login,
	rule string,
) audit.Event {
	id := s.cfg.Identity()
	e := audit.NewEvent(code, who, s.cfg.Now())
	e.Machine, e.MachineID = id.Name, id.ID
	e.Login, e.From, e.Proxy, e.Rule = login, origin.From, origin.Proxy, rule
	return e
}

// newEvent starts an audit event about the connection's user.
func (c *connection) newEvent(code audit.Code, rule string) audit.Event {
	return c.srv.newEvent(code, c.origin, c.who.Identity, c.login, rule)
}

// auditRefusal records that a user who has proved who they are was refused. A refusal that cannot be recorded
// stays a refusal.
func (s *Server) auditRefusal(origin Origin, e evidence, rule, what string, err error) {
	login := e.login
	if identity.CheckLogin(login) != nil {
		login = ""
	}
	ev := s.newEvent(audit.SessionRefused, origin, e.who.Identity, login, rule)
	ev.Reason = audit.Truncate(sshprofile.Clean(fault.Message(err)))
	ev.Fields = map[string]string{"what": what, "by": origin.Protocol}
	s.cfg.Log.Info("refused",
		"user", e.who.Name, "login", login, "what", what, "from", origin.From, "reason", ev.Reason)
	if err := s.cfg.Audit(ev); err != nil {
		s.cfg.Log.Warn("a refusal could not be recorded", "err", err)
	}
}

// auditRefusal records a refusal on the connection, up to maxRefusals of them.
func (c *connection) auditRefusal(rule, what string, err error) {
	c.mu.Lock()
	c.refusals++
	n := c.refusals
	c.mu.Unlock()
	switch {
	case n <= maxRefusals:
		c.srv.auditRefusal(c.origin, evidence{who: c.who, login: c.login}, rule, what, err)
	case n == maxRefusals+1:
		c.srv.cfg.Log.Warn("further refusals on this connection are not recorded",
			"user", c.who.Name, "login", c.login, "from", c.origin.From)
	}
}

// describeRequest says what a refused request or channel open was about: its type and, where the payload can
// be read, its target.
func describeRequest(requestType string, payload []byte) string {
	target, err := forward.Parse(requestType, payload)
	if err != nil {
		return requestType
	}
	return describeTarget(requestType, target)
}

func describeTarget(requestType string, target forward.Target) string {
	return audit.Truncate(requestType + " " + sshprofile.Clean(target.String()))
}

func newSessionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
