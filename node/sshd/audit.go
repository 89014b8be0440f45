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

// The events of this package have these keys in Fields:
//
//	protocol   how the client came to the proxy: dial or ssh (all events)
//	program    of a session: shell, exec or sftp
//	command    of a session whose program is exec; only in the event of the start
//	terminal   yes, if the program has a terminal
//	bytes_in   at the end of a session: how much the client sent to the program
//	bytes_out  at the end of a session: how much the program sent to the client
//	status     at the end of a session: the exit status, or else
//	signal     the signal that ended the program, as "KILL"
//	cause      at the end of a session that the node ended: causeStop, causeIdle and so on
//	request    of a refusal: what the user asked for
//	forward    of a forward: local, remote or agent
//	target     of a forward: from or to where

// maxRefusals is how many refusals of one connection are audited. Further requests are refused too, but only
// counted, so that a client that asks again and again fills neither the audit log nor the disk.
const maxRefusals = 32

// newEvent returns an audit event about a user who has proved who they are, for the caller to complete and
// hand to Config.Audit. rule is the rule that decided; empty if none did.
func (s *Server) newEvent(
	code audit.Code,
	origin Origin,
	who identity.Identity,
	login identity.Login,
	rule string,
) audit.Event {
	id := s.cfg.Identity()
	event := audit.NewEvent(code, who, s.cfg.Now())
	event.Machine, event.MachineID = id.Name, id.ID
	event.Login, event.From, event.Proxy, event.Rule = login, origin.From, origin.Proxy, rule
	return event
}

// newEvent returns an audit event about the connection's user; see Server.newEvent.
func (c *connection) newEvent(code audit.Code, rule string) audit.Event {
	return c.srv.newEvent(code, c.origin, c.who.Identity, c.login, rule)
}

// auditRefusal logs and audits that a user who has proved who they are was refused, with err as the reason.
// request says what the user asked for, as "login", "exec" or "direct-tcpip localhost:80". If the event
// cannot be stored, this is only logged: the caller refuses the request in any case.
func (s *Server) auditRefusal(origin Origin, proved evidence, rule, request string, err error) {
	login := proved.login
	if identity.CheckLogin(login) != nil {
		login = "" // the client chose it, and it may be any text
	}
	event := s.newEvent(audit.SessionRefused, origin, proved.who.Identity, login, rule)
	event.Reason = audit.Truncate(sshprofile.Clean(fault.Message(err)))
	event.Fields = map[string]string{"request": request, "protocol": origin.Protocol}
	s.cfg.Log.Info("refused", "user", proved.who.Name, "login", login,
		"request", request, "from", origin.From, "reason", event.Reason)
	if err := s.cfg.Audit(event); err != nil {
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
		c.srv.auditRefusal(c.origin, evidence{who: c.who, login: c.login}, rule, request, err)
	case n == maxRefusals+1:
		c.srv.cfg.Log.Warn("further refusals on this connection are not recorded",
			"user", c.who.Name, "login", c.login, "from", c.origin.From)
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
