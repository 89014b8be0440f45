package sshd

import (
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
)

// requestKey names one thing that a client may ask for on a connection that is logged in (RFC 4254).
type requestKey struct {
	kind string // of message: globalRequest, channelOpen or channelRequest
	name string // the request type or channel type in the message; for a subsystem, "subsystem NAME"
}

// The kinds of messages, in the words of refusals that clients read.
const (
	globalRequest  = "request"         // RFC 4254 section 4
	channelOpen    = "channel"         // section 5.1
	channelRequest = "session request" // section 6
)

// requirement says what a request needs. With the zero value a request is refused.
type requirement struct {
	// action is the action that the rules must allow. It is empty for a request that is implied.
	action access.Action
	// implied says that the request needs no action of its own, because it only belongs to something that is
	// authorized by itself, as a window size belongs to a shell. The rules must allow at least one action.
	implied bool
	// extension is an extension that the certificate must have besides (OpenSSH PROTOCOL.certkeys). Empty
	// means none.
	extension string
	// unsupported, if it is not empty, says why the request is refused, whatever the rules allow. remedy then
	// says what the user can do instead.
	unsupported, remedy string
}

var (
	implied       = requirement{implied: true}
	localForward  = needing(access.ForwardLocal)
	remoteForward = needing(access.ForwardRemote)
	agentForward  = needing(access.ForwardAgent)
	x11Forward    = requirement{
		unsupported: "this node does not forward X11",
		remedy:      "leave out -X and -Y; to use a desktop on the node, forward its port with ssh -L",
	}
)

// requirements has every request that the node knows. A request that is missing here is refused.
var requirements = map[requestKey]requirement{
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
	{channelRequest, "pty-req"}:                    {implied: true, extension: access.Shell.Extension()},
	{channelRequest, "window-change"}:              implied,
	{channelRequest, "signal"}:                     implied,
	{channelRequest, "break"}:                      implied,
	{channelRequest, "env"}:                        implied,
	{channelRequest, "keepalive@openssh.com"}:      implied,
	{channelRequest, "auth-agent-req@openssh.com"}: agentForward,
	{channelRequest, "x11-req"}:                    x11Forward,
}

// needing is the requirement of a request that needs the action, and the extension that belongs to it.
func needing(a access.Action) requirement { return requirement{action: a, extension: a.Extension()} }

// needsGrant reports whether the request needs an action of its own. Refusals of such requests are audited.
func (k requestKey) needsGrant() bool { return requirements[k].action != "" }

// authorize returns nil if the client may do what it asks for. It is the only place that decides this: every
// channel open, global request and channel request passes it. It decides by the rules in force now, by the
// certificate that the client proved to hold, and at the current time, because all three may have changed
// since the login.
//
// rule names the rule that decided, and is empty if none did. The error is a fault with what the user can do:
// Denied, Expired for the certificate, or Unavailable while there are no usable rules.
func (c *connection) authorize(key requestKey) (rule string, err error) {
	needs, known := requirements[key]
	if needs.unsupported != "" {
		return "", requestUnsupported.New("node", fault.Args{"why": needs.unsupported, "hint": needs.remedy})
	}
	refusesAll := needs.action == "" && !needs.implied
	if !known || refusesAll {
		return "", requestUnknown.New("node", fault.Args{"kind": key.kind, "name": printable(key.name)})
	}
	decision, err := c.decide(needs.action) // empty, for an implied request, means anyAction
	if err != nil {
		return "", err
	}
	if !decision.Allow {
		return decision.Rule, accessDenied.New("node", fault.Args{
			"reason": decision.Reason,
			"hint":   decision.Remedy,
		})
	}
	if needs.extension != "" && !c.hasExtension(needs.extension) {
		return decision.Rule, certificateExtensionMissing.New("node", fault.Args{
			"extension": needs.extension,
			"kind":      key.kind,
			"name":      key.name,
		})
	}
	return decision.Rule, nil
}

// hasExtension reports whether the certificate that the client proved to hold has the extension.
func (c *connection) hasExtension(name string) bool {
	cert, ok := c.credential().key.(*ssh.Certificate)
	if !ok {
		return false
	}
	_, has := cert.Extensions[name]
	return has
}

// decide returns the decision of the rules about an action, or about anyAction. First it checks the
// certificate again, because since the login it may have expired or its authority may have been withdrawn.
// The error is a fault: the certificate is not valid any more, or there are no usable rules.
func (c *connection) decide(action access.Action) (access.Decision, error) {
	trust, now, err := c.srv.currentRules()
	if err != nil {
		return access.Decision{}, err
	}
	if err := c.credential().verify(trust, c.conn.RemoteAddr(), now); err != nil {
		return access.Decision{}, certificateFault(err)
	}
	return c.srv.decide(trust, c.who(), c.login, action, now, c.origin), nil
}
