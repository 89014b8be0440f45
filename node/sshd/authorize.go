package sshd

import (
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// door is one way in which a client may ask for something on a connection that is logged in (RFC 4254): where it knocks, and the name
// it gives.
type door struct {
	at   string // atGlobal, atChannel or atSession
	name string
}

const (
	atGlobal  = "request"
	atChannel = "channel"
	atSession = "session request"
)

// terms say what a door needs. The zero value opens nothing.
type terms struct {
	// needs is the action that a rule must allow to this login. Empty with part set: any action at all.
	needs access.Action
	// part says that the door is part of what another one has opened, such as a window's size.
	part bool
	// permit is an extension that the certificate must carry as well, whoever made it so (OpenSSH PROTOCOL.certkeys).
	permit string
	// never says why the door stays shut whatever the rules say; hint, what helps instead.
	never, hint string
}

// permitPorts is what OpenSSH asks of a certificate for ports and Unix sockets alike.
const permitPorts = "permit-port-forwarding"

// doors is every door that is known. One that is not listed is shut.
var doors = map[door]terms{
	{atGlobal, "keepalive@openssh.com"}:                  {part: true},
	{atGlobal, "no-more-sessions@openssh.com"}:           {part: true},
	{atGlobal, "tcpip-forward"}:                          {needs: access.ForwardRemote, permit: permitPorts},
	{atGlobal, "cancel-tcpip-forward"}:                   {needs: access.ForwardRemote, permit: permitPorts},
	{atGlobal, "streamlocal-forward@openssh.com"}:        {needs: access.ForwardRemote, permit: permitPorts},
	{atGlobal, "cancel-streamlocal-forward@openssh.com"}: {needs: access.ForwardRemote, permit: permitPorts},

	{atChannel, "session"}:                        {part: true},
	{atChannel, "direct-tcpip"}:                   {needs: access.ForwardLocal, permit: permitPorts},
	{atChannel, "direct-streamlocal@openssh.com"}: {needs: access.ForwardLocal, permit: permitPorts},

	{atSession, "shell"}:                      {needs: access.Shell},
	{atSession, "exec"}:                       {needs: access.Exec},
	{atSession, "subsystem sftp"}:             {needs: access.SFTP},
	{atSession, "pty-req"}:                    {part: true, permit: "permit-pty"},
	{atSession, "window-change"}:              {part: true},
	{atSession, "signal"}:                     {part: true},
	{atSession, "break"}:                      {part: true},
	{atSession, "env"}:                        {part: true},
	{atSession, "keepalive@openssh.com"}:      {part: true},
	{atSession, "auth-agent-req@openssh.com"}: {needs: access.ForwardAgent, permit: "permit-agent-forwarding"},
	{atSession, "x11-req"}:                    {never: "this node forwards no X11 displays", hint: "leave out -X and -Y; a desktop on the node can be had through a forwarded port: ssh -L"},
}

// authorize is the one place that opens doors: for every channel, global request and session request. It asks the rules of this
// moment, at this moment's time, for the certificate that the client proved to hold.
func (c *connection) authorize(d door) (rule string, err error) {
	t, known := doors[d]
	if t.never != "" {
		return "", fault.New(fault.Denied, "node", t.never, t.hint)
	}
	if !known || (t.needs == "" && !t.part) {
		return "", fault.New(fault.Denied, "node", fmt.Sprintf("this node does not serve the %s %q", d.at, shown(d.name)), "use a shell, a command, sftp or scp")
	}
	decision, err := c.decide(t.needs)
	if err != nil {
		return "", err
	}
	if !decision.Allow {
		return decision.Rule, fault.New(fault.Denied, "node", decision.Reason, decision.Remedy)
	}
	if t.permit != "" && !c.permits(t.permit) {
		return decision.Rule, fault.New(fault.Denied, "node", fmt.Sprintf("the certificate does not carry %s, which the %s %q needs", t.permit, d.at, d.name),
			"ask an administrator for a role that grants it, then run: tsh login")
	}
	return decision.Rule, nil
}

// permits reports whether the certificate that the client proved to hold carries an extension.
func (c *connection) permits(extension string) bool {
	cert, ok := c.key.(*ssh.Certificate)
	if !ok {
		return false
	}
	_, permits := cert.Extensions[extension]
	return permits
}

// decide verifies the certificate again and asks access. Without an action it asks for any.
func (c *connection) decide(a access.Action) (access.Decision, error) {
	trust, now, err := c.srv.trust()
	if err != nil {
		return access.Decision{}, err
	}
	who, err := identity.VerifySSHUser(c.key, trust.Cluster, trust.Authorities.UserSSH, c.conn.RemoteAddr(), now)
	if err != nil {
		return access.Decision{}, badCertificate(err)
	}
	return c.srv.decide(trust, who, c.login, a, now, address(c.visit.from)), nil
}

// shown makes a client's word fit for a person's screen.
func shown(s string) string {
	const limit = 64
	out := []rune{}
	for _, r := range s {
		if len(out) == limit {
			return string(out) + "…"
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
