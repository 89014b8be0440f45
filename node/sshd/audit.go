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

// maxRefusals is how many refusals of one connection are audited. Further requests are refused too, but only
// counted, so that a client that asks again and again fills neither the audit log nor the disk.
const maxRefusals = 32

// newEvent returns an audit event about a user who has proved who they are, for Config.Audit.
func (s *Server) newEvent(origin Origin, who identity.Identity, body audit.Body) audit.Event {
	event := audit.New(s.cfg.Now(), who, body).Via(origin.Proxy, origin.From)
	event.Proxy.ID = origin.ProxyID
	event.Machine = audit.MachineOf(s.cfg.Identity())
	event.SaidBy = event.Machine
	event.Connection = origin.Connection
	return event
}

// newEvent returns an audit event about the connection's user; see Server.newEvent.
func (c *connection) newEvent(body audit.Body) audit.Event {
	return c.srv.newEvent(c.origin, c.who().Identity, body)
}

// auditRefusal logs and audits that a user who has proved who they are was refused, with err as the reason.
// request says what the user asked for, as "login", "exec" or "direct-tcpip localhost:80". If the event
// cannot be stored, this is only logged: the caller refuses the request in any case.
func (s *Server) auditRefusal(origin Origin, proved evidence, rule, request string, err error) {
	login := proved.login
	if identity.CheckLogin(login) != nil {
		login = "" // the client chose it, and it may be any text
	}
	refusal := audit.SessionRefusal{
		Login:    login,
		Request:  request,
		Protocol: origin.Protocol,
		Rule:     rule,
		Reason:   audit.Truncate(sshprofile.Clean(fault.Message(err))),
	}
	s.cfg.Log.Info("refused", "user", proved.who.Name, "login", login,
		"request", request, "from", origin.From,
		"connection", origin.Connection, "reason", refusal.Reason)
	if err := s.cfg.Audit(s.newEvent(origin, proved.who.Identity, refusal)); err != nil {
		s.cfg.Log.Warn("a refusal could not be recorded", "err", err)
	}
}

// auditRefusal logs and audits a refusal on the connection, as Server.auditRefusal does. After maxRefusals of
// them it only logs, once, that further ones are not recorded.
func (c *connection) auditRefusal(rule, request string, err error) {
	c.mu.Lock()
	c.refusals++
	n := c.refusals
	c.mu.Unlock() // before the event is written to disk, so that nobody waits for c.mu meanwhile
	switch {
	case n <= maxRefusals:
		c.srv.auditRefusal(c.origin, evidence{who: c.who(), login: c.login}, rule, request, err)
	case n == maxRefusals+1:
		c.srv.cfg.Log.Warn("further refusals on this connection are not recorded",
			"user", c.who().Name, "login", c.login, "from", c.origin.From, "connection", c.origin.Connection)
	}
}

// describeRequest returns the description of a refused request or channel open for auditRefusal: its type
// and, if it is a forward whose payload can be read, its target.
func describeRequest(requestType string, payload []byte) string {
	target, err := forward.Parse(requestType, payload)
	if err != nil {
		return requestType
	}
	return describeTarget(requestType, target)
}

// describeTarget returns the description of a refused forward for auditRefusal: the type of the request, and
// the target without control characters.
func describeTarget(requestType string, target forward.Target) string {
	return audit.Truncate(requestType + " " + sshprofile.Clean(target.String()))
}

// newSessionID returns a random id, by which events of one session are found.
func newSessionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
