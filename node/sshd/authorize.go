package sshd

import (
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// requestKey is one way in which a client may ask for something on a connection that is logged in (RFC 4254):
// where it knocks, and the name it gives.
type requestKey struct {
	kind string // globalRequest, channelOpen or channelRequest
	name string
}

const (
	globalRequest  = "request"
	channelOpen    = "channel"
	channelRequest = "session request"
)

// requirement say what a door needs. The zero value opens nothing.
type requirement struct {
	// action is the action that a rule must allow to this login. Empty with part set: any action at all.
	action access.Action
	// implied says that the door is part of what another one has opened, such as a window's size.
	implied bool
	// extension is an extension that the certificate must carry as well, whoever made it so (OpenSSH
	// PROTOCOL.certkeys).
	extension string
	// unsupported says why the door stays shut whatever the rules say; hint, what helps instead.
	unsupported, remedy string
}

// permitPortForwarding is what OpenSSH asks of a certificate for ports and Unix sockets alike.
const permitPortForwarding = "permit-port-forwarding"

// policies is every door that is known. One that is not listed is shut.
var policies = map[requestKey]requirement{
	{globalRequest, "keepalive@openssh.com"}:        {implied: true},
	{globalRequest, "no-more-sessions@openssh.com"}: {implied: true},
	{globalRequest, "tcpip-forward"}: {
		action:    access.ForwardRemote,
		extension: permitPortForwarding,
	},
	{globalRequest, "cancel-tcpip-forward"}: {
		action:    access.ForwardRemote,
		extension: permitPortForwarding,
	},
	{globalRequest, "streamlocal-forward@openssh.com"}: {
		action:    access.ForwardRemote,
		extension: permitPortForwarding,
	},
	{globalRequest, "cancel-streamlocal-forward@openssh.com"}: {
		action:    access.ForwardRemote,
		extension: permitPortForwarding,
	},

	{channelOpen, "session"}: {implied: true},
	{channelOpen, "direct-tcpip"}: {
		action:    access.ForwardLocal,
		extension: permitPortForwarding,
	},
	{channelOpen, "direct-streamlocal@openssh.com"}: {
		action:    access.ForwardLocal,
		extension: permitPortForwarding,
	},

	{channelRequest, "shell"}:                 {action: access.Shell},
	{channelRequest, "exec"}:                  {action: access.Exec},
	{channelRequest, "subsystem sftp"}:        {action: access.SFTP},
	{channelRequest, "pty-req"}:               {implied: true, extension: "permit-pty"},
	{channelRequest, "window-change"}:         {implied: true},
	{channelRequest, "signal"}:                {implied: true},
	{channelRequest, "break"}:                 {implied: true},
	{channelRequest, "env"}:                   {implied: true},
	{channelRequest, "keepalive@openssh.com"}: {implied: true},
	{channelRequest, "auth-agent-req@openssh.com"}: {
		action:    access.ForwardAgent,
		extension: "permit-agent-forwarding",
	},
	{channelRequest, "x11-req"}: {
		unsupported: "this node forwards no X11 displays",
		remedy:      "leave out -X and -Y; a desktop on the node can be had through a forwarded port: ssh -L",
	},
}

// authorize is the one place that opens doors: for every channel, global request and session request. It asks
// the rules of this moment, at this moment's time, for the certificate that the client proved to hold.
func (c *connection) authorize(d requestKey) (rule string, err error) {
	t, known := policies[d]
	if t.unsupported != "" {
		return "", fault.New(fault.Denied, "node", t.unsupported, t.remedy)
	}
	if !known || (t.action == "" && !t.implied) {
		return "", fault.New(
			fault.Denied,
			"node",
			fmt.Sprintf("this node does not serve the %s %q", d.kind, printable(d.name)),
			"use a shell, a command, sftp or scp",
		)
	}
	decision, err := c.decide(t.action)
	if err != nil {
		return "", err
	}
	if !decision.Allow {
		return decision.Rule, fault.New(fault.Denied, "node", decision.Reason, decision.Remedy)
	}
	if t.extension != "" && !c.carriesExtension(t.extension) {
		return decision.Rule, fault.New(
			fault.Denied,
			"node",
			fmt.Sprintf(
				"the certificate does not carry %s, which the %s %q needs",
				t.extension,
				d.kind,
				d.name,
			),
			"ask an administrator for a role that grants it, then run: tsh login",
		)
	}
	return decision.Rule, nil
}

// carriesExtension reports whether the certificate that the client proved to hold carries an extension.
func (c *connection) carriesExtension(extension string) bool {
	cert, ok := c.key.(*ssh.Certificate)
	if !ok {
		return false
	}
	_, permits := cert.Extensions[extension]
	return permits
}

// decide verifies the certificate again and asks access. Without an action it asks for any.
func (c *connection) decide(a access.Action) (access.Decision, error) {
	trust, now, err := c.srv.currentRules()
	if err != nil {
		return access.Decision{}, err
	}
	who, err := identity.VerifySSHUser(
		c.key,
		trust.Cluster,
		trust.Authorities.UserSSH,
		c.conn.RemoteAddr(),
		now,
	)
	if err != nil {
		return access.Decision{}, certificateFault(err)
	}
	return c.srv.decide(trust, who, c.login, a, now, clientAddr(c.attempt.from)), nil
}

// printable makes a client's word fit for a person's screen.
func printable(s string) string {
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
