package sshd

import (
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// requestKey names one thing that a client may ask for on a connection that is logged in (RFC 4254): the kind
// of message, and the type that the message gives. For a subsystem request the name is "subsystem NAME".
type requestKey struct {
	kind string // globalRequest, channelOpen or channelRequest
	name string
}

// The kinds of messages, as refusals name them.
const (
	globalRequest  = "request"         // RFC 4254 section 4
	channelOpen    = "channel"         // section 5.1
	channelRequest = "session request" // section 6
)

// requirement says what a request needs. The zero value refuses.
type requirement struct {
	// action is what a rule must allow to this login. If it is empty and implied is set, any allowed action
	// will do.
	action access.Action
	// implied says that the request only belongs to something that is authorized by itself, as a window size
	// belongs to a shell.
	implied bool
	// extension is one that the certificate must carry besides (OpenSSH PROTOCOL.certkeys).
	extension string
	// unsupported says why the request is refused whatever the rules allow; remedy, what helps instead.
	unsupported, remedy string
}

// permitPortForwarding is the extension for ports and Unix sockets alike, as in OpenSSH.
const permitPortForwarding = "permit-port-forwarding"

var (
	implied       = requirement{implied: true}
	localForward  = requirement{action: access.ForwardLocal, extension: permitPortForwarding}
	remoteForward = requirement{action: access.ForwardRemote, extension: permitPortForwarding}
	agentForward  = requirement{action: access.ForwardAgent, extension: "permit-agent-forwarding"}
	x11Forward    = requirement{
		unsupported: "this node does not forward X11",
		remedy:      "leave out -X and -Y; to use a desktop on the node, forward its port with ssh -L",
	}
)

// policies holds every request that the node knows. A request that is missing here is refused.
var policies = map[requestKey]requirement{
	{globalRequest, "keepalive@openssh.com"}:                  implied,
	{globalRequest, noMoreSessionsRequest}:                    implied,
	{globalRequest, "tcpip-forward"}:                          remoteForward,
	{globalRequest, "cancel-tcpip-forward"}:                   remoteForward,
	{globalRequest, "streamlocal-forward@openssh.com"}:        remoteForward,
	{globalRequest, "cancel-streamlocal-forward@openssh.com"}: remoteForward,

	{channelOpen, "session"}:                        implied,
	{channelOpen, "direct-tcpip"}:                   localForward,
	{channelOpen, "direct-streamlocal@openssh.com"}: localForward,

	{channelRequest, "shell"}:                      {action: access.Shell},
	{channelRequest, "exec"}:                       {action: access.Exec},
	{channelRequest, "subsystem sftp"}:             {action: access.SFTP},
	{channelRequest, "pty-req"}:                    {implied: true, extension: "permit-pty"},
	{channelRequest, "window-change"}:              implied,
	{channelRequest, "signal"}:                     implied,
	{channelRequest, "break"}:                      implied,
	{channelRequest, "env"}:                        implied,
	{channelRequest, "keepalive@openssh.com"}:      implied,
	{channelRequest, "auth-agent-req@openssh.com"}: agentForward,
	{channelRequest, "x11-req"}:                    x11Forward,
}

// needsGrant reports whether the request needs a grant of its own. Refusals of such requests are audited.
func (k requestKey) needsGrant() bool { return policies[k].action != "" }

// authorize decides about a request. It is the only place that does: every channel open, global request and
// channel request passes it. It asks the rules in force now, at the current time, about the certificate that
// the client proved to hold. rule names the rule that decided, if one did.
func (c *connection) authorize(k requestKey) (rule string, err error) {
	req, known := policies[k]
	if req.unsupported != "" {
		return "", fault.New(fault.Denied, "node", req.unsupported, req.remedy)
	}
	if !known || (req.action == "" && !req.implied) {
		msg := fmt.Sprintf("this node does not support the %s %q", k.kind, printable(k.name))
		return "", fault.New(fault.Denied, "node", msg, "use a shell, a command, sftp or scp")
	}
	decision, err := c.decide(req.action)
	if err != nil {
		return "", err
	}
	if !decision.Allow {
		return decision.Rule, fault.New(fault.Denied, "node", decision.Reason, decision.Remedy)
	}
	if req.extension != "" && !c.hasExtension(req.extension) {
		msg := fmt.Sprintf("the certificate does not carry %s, which the %s %q needs",
			req.extension, k.kind, k.name)
		const remedy = "ask an administrator for a role that grants it, then run: tsh login"
		return decision.Rule, fault.New(fault.Denied, "node", msg, remedy)
	}
	return decision.Rule, nil
}

// hasExtension reports whether the certificate that the client proved to hold carries an extension.
func (c *connection) hasExtension(name string) bool {
	cert, ok := c.key.(*ssh.Certificate)
	if !ok {
		return false
	}
	_, has := cert.Extensions[name]
	return has
}

// decide verifies the certificate again, because since the login it may have expired or its authority may
// have been withdrawn, and asks the rules. Without an action it asks for any.
func (c *connection) decide(action access.Action) (access.Decision, error) {
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
	return c.srv.decide(trust, who, c.login, action, now, clientAddr(c.origin.From)), nil
}
