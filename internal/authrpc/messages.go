package authrpc

import (
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
)

// BeginLoginRequest starts a login for a browser. Nothing is stored: the attempt travels in the answer's
// sealed Attempt, which the proxy keeps in a cookie.
type BeginLoginRequest struct {
	Challenge    string `json:"challenge,omitempty"` // Challenge(…): commits to tsh's verifier and both public keys
	Callback     string `json:"callback,omitempty"`  // tsh's loopback address, http://127.0.0.1:PORT/callback (RFC 8252 section 7.3)
	State        string `json:"state,omitempty"`     // tsh's own state, handed back with the code on loopback
	Connector    string `json:"connector,omitempty"` // which provider; may be empty while there is only one
	PublicOrigin string `json:"public"`              // the proxy's own origin, https://host[:port]; the provider returns to Public + CallbackPath(connector)
	From         string `json:"from,omitempty"`      // the browser's address
	Locale       string `json:"locale,omitempty"`    // the language that the person chose (BCP 47), for the provider's page

	// Handle, of BeginHeadless, stands in place of Challenge, Callback and State. Nothing happens before
	// Confirmed, which says that the person saw who asks.
	Handle    string `json:"handle,omitempty"`
	Confirmed bool   `json:"confirmed,omitempty"`
}

// Headless is what a person compares with the terminal of a machine without a browser before they log in for
// it.
type Headless struct {
	From    string    `json:"from"` // the machine's address, by the word of the proxy that it asked through
	Code    string    `json:"code"` // XXXX-XXXX
	Expires time.Time `json:"expires"`
}

// CallbackPrefix and a connector's name are where its provider sends the browser back to. Each has an address
// of its own, so that no provider can have another's code passed to it (RFC 9700 section 4.4.2).
const CallbackPrefix = "/login/callback/"

// CallbackPath is the path of a connector's callback.
func CallbackPath(connector string) string { return CallbackPrefix + connector }

// BeginLoginResponse either names the provider page to go to or, when the person must choose, the connectors;
// for a handle that is not confirmed, it says who asks.
type BeginLoginResponse struct {
	Attempt    string      `json:"attempt,omitempty"`  // sealed; for the cookie
	Redirect   string      `json:"redirect,omitempty"` // the provider's page
	Connectors []Connector `json:"connectors,omitempty"`
	Headless   *Headless   `json:"headless,omitempty"`
	Expires    time.Time   `json:"expires,omitzero"`
}

// Connector is a provider as a person sees it.
type Connector struct {
	Name        string `json:"name"`
	DisplayName string `json:"display"`
}

// FinishOIDCRequest carries what the provider sent the browser back with.
type FinishOIDCRequest struct {
	Attempt          string `json:"attempt"`
	Connector        string `json:"connector"` // whose callback address the browser came to
	State            string `json:"state"`
	Code             string `json:"code,omitempty"`
	Issuer           string `json:"iss,omitempty"`   // RFC 9207: the provider's own name, against mix-up
	Error            string `json:"error,omitempty"` // RFC 6749 section 4.1.2.1
	ErrorDescription string `json:"error_description,omitempty"`
	From             string `json:"from,omitempty"`
}

// FinishOIDCResponse asks for the second factor.
type FinishOIDCResponse struct {
	Attempt  string     `json:"attempt"` // sealed anew, now identified
	Name     string     `json:"name"`    // who the provider says this is
	Enrol    *Enrolment `json:"enrol,omitempty"`
	Headless *Headless  `json:"headless,omitempty"` // for which machine this is, if for another
	Expires  time.Time  `json:"expires"`
}

// Enrolment is shown once, to a person without a second factor.
type Enrolment struct {
	URI    string `json:"uri"`    // otpauth://totp/…, for the QR code
	Secret string `json:"secret"` // base32, for typing
}

// ProveFactorRequest shows a TOTP code, or a recovery code.
type ProveFactorRequest struct {
	Attempt string `json:"attempt"`
	Code    string `json:"code"`
	From    string `json:"from,omitempty"`
}

// ProveFactorResponse ends the browser's part. After a wrong code the call fails and the same Attempt may be
// used again until it ends.
type ProveFactorResponse struct {
	Redirect      string   `json:"redirect,omitempty"` // tsh's loopback with the one-time code and state; none for a headless login
	Name          string   `json:"name"`
	RecoveryCodes []string `json:"recovery_codes,omitempty"` // after enrolment, shown once
}

// Keys open a challenge: the verifier and public keys it committed to.
type Keys struct {
	Verifier string `json:"verifier"`
	SSHKey   []byte `json:"ssh_key"`  // SSH wire format
	X509Key  []byte `json:"x509_key"` // PKIX DER
}

// RedeemLoginRequest turns the one-time code into certificates.
type RedeemLoginRequest struct {
	Code string `json:"code"`
	Keys
}

// RedeemLoginResponse is all that a client needs.
type RedeemLoginResponse struct {
	Identity identity.Identity `json:"identity"`
	SSHCert  []byte            `json:"ssh_cert,omitempty"` // SSH wire format; absent for someone without any login
	X509     [][]byte          `json:"x509"`               // DER, leaf first
	Logins   []identity.Login  `json:"logins,omitempty"`
	// Authorities is the chain of the signed authorities documents: what the client trusts nodes and proxies
	// by. People get no roles.
	Authorities []rules.Signed `json:"authorities"`
	Time        time.Time      `json:"time"` // auth's clock
}

// BeginHeadlessRequest asks for a login on a machine without a browser.
type BeginHeadlessRequest struct {
	Challenge string `json:"challenge"`
}

// BeginHeadlessResponse has the handle that goes into the link, HeadlessPath?handle=…, which a person opens
// elsewhere.
type BeginHeadlessResponse struct {
	Handle       string        `json:"handle"`
	Code         string        `json:"code"` // the person compares it
	From         string        `json:"from"` // this machine's address, as auth is told
	Expires      time.Time     `json:"expires"`
	PollInterval time.Duration `json:"every"` // how often to ask whether the person is done
}

// HeadlessPath is the page that a headless login's link leads to.
const HeadlessPath = "/login/headless"

// RedeemHeadlessRequest asks whether the person is done, and if so for the certificates.
type RedeemHeadlessRequest struct {
	Handle string `json:"handle"`
	Keys
}

// RedeemHeadlessResponse has no login while the person is not done.
type RedeemHeadlessResponse struct {
	Login *RedeemLoginResponse `json:"login,omitempty"`
}

// JoinRequest admits a machine. Proof signs the request with the X.509 key: see JoinProof.
type JoinRequest struct {
	Token       string          `json:"token"`
	Kind        identity.Kind   `json:"kind"`
	Name        string          `json:"name"`             // wished; auth decides
	Labels      identity.Labels `json:"labels,omitempty"` // wished; the token's own win
	PublicNames []string        `json:"names,omitempty"`  // proxy: the public host names and addresses it answers to
	SSHKey      []byte          `json:"ssh_key"`          // host key, SSH wire format
	X509Key     []byte          `json:"x509_key"`         // PKIX DER
	Proof       []byte          `json:"proof"`
	Time        time.Time       `json:"time"` // the machine's clock, so that auth can say it is off
}

// JoinResponse makes the machine a member.
type JoinResponse struct {
	Identity identity.Identity `json:"identity"`
	SSHCert  []byte            `json:"ssh_cert"`
	X509     [][]byte          `json:"x509"` // DER, leaf first, cluster root last
	Rules    rules.Set         `json:"rules"`
	Time     time.Time         `json:"time"`
}

// RenewRequest asks for fresh certificates for the keys that auth has on record. The TLS client certificate
// says who asks.
type RenewRequest struct {
	Time time.Time `json:"time"`
}

// RenewResponse is like a JoinResponse.
type RenewResponse = JoinResponse

// WatchRulesRequest may name the head already held.
type WatchRulesRequest struct {
	Since time.Time `json:"since,omitzero"`
}

// RulesUpdate is the set as of now; a stream sends one at once and then one for every new head.
type RulesUpdate struct {
	Set rules.Set `json:"set"`
}

// ReportNodesRequest says which nodes are attached to the calling proxy, all of them, under a lease that each
// report renews.
type ReportNodesRequest struct {
	Attached []AttachedNode `json:"attached"`
}

// AttachedNode is the node's own signed word.
type AttachedNode struct {
	Node       identity.MachineID      `json:"node"`
	Attachment tunnel.SignedAttachment `json:"attachment"`
	Version    string                  `json:"version,omitempty"`
}

// ReportNodesResponse says when to report again even if nothing changed.
type ReportNodesResponse struct {
	ReportAfter time.Duration `json:"again"`
}

// GetAuthoritiesRequest has no fields yet.
type GetAuthoritiesRequest struct{}

// GetAuthoritiesResponse is the chain as in RedeemLoginResponse.
type GetAuthoritiesResponse struct {
	Authorities []rules.Signed `json:"authorities"`
}

// LocateNodeRequest asks by whole name, name.cluster, or id.
type LocateNodeRequest struct {
	Node string `json:"node"`
}

// LocateNodeResponse holds the node, or none.
type LocateNodeResponse struct {
	Nodes []NodeInfo `json:"nodes"`
}

// NodeInfo is a node in listings.
type NodeInfo struct {
	ID       identity.MachineID `json:"id"`
	Name     string             `json:"name"`
	Labels   identity.Labels    `json:"labels,omitempty"`
	Online   bool               `json:"online"`
	Proxies  []string           `json:"proxies,omitempty"` // where it is attached
	LastSeen time.Time          `json:"last_seen,omitzero"`
	Version  string             `json:"version,omitempty"`
	Logins   []identity.Login   `json:"logins,omitempty"` // which of them the asker may be
}

// Access is the node as rules see it.
func (n NodeInfo) Access() access.Node {
	return access.Node{ID: n.ID, Name: n.Name, Labels: n.Labels}
}

// SendEventsRequest hands events over for storing. Sending one twice is harmless: its id tells.
type SendEventsRequest struct {
	Events []audit.Event `json:"events"` // at most MaxEvents
}

// MaxEvents bounds one SendEventsRequest.
const MaxEvents = 200

// SendEventsResponse is given once the events are stored.
type SendEventsResponse struct{}

// WhoAmIRequest has no fields yet.
type WhoAmIRequest struct{}

// WhoAmIResponse says how auth sees the caller now.
type WhoAmIResponse struct {
	Identity identity.Identity `json:"identity"`
	Logins   []identity.Login  `json:"logins,omitempty"`
	Time     time.Time         `json:"time"`
}

// ListNodesRequest pages through the nodes the caller may see.
type ListNodesRequest struct {
	Labels map[string]string `json:"labels,omitempty"` // every one must match; values may have wildcards; "name" is the node's name
	Name   string            `json:"name,omitempty"`   // whole name, first label (several nodes may share one), name.cluster, or id
	After  string            `json:"after,omitempty"`
	Limit  int               `json:"limit,omitempty"` // 0: 1000
}

// ListNodesResponse is one page; Next is empty on the last.
type ListNodesResponse struct {
	Nodes []NodeInfo `json:"nodes"`
	Next  string     `json:"next,omitempty"`
}

// Resource is one document as an administrator sees it.
type Resource struct {
	Kind     string          `json:"kind"             yaml:"kind"`    // singular: role
	Version  string          `json:"version"          yaml:"version"` // v1
	Metadata Metadata        `json:"metadata"         yaml:"metadata"`
	Spec     json.RawMessage `json:"spec"             yaml:"spec"`
	Status   json.RawMessage `json:"status,omitempty" yaml:"status,omitempty"` // what is so, not what was asked for
}

// Metadata names a resource.
type Metadata struct {
	Name     string            `json:"name"               yaml:"name"`
	Labels   map[string]string `json:"labels,omitempty"   yaml:"labels,omitempty"`
	Revision uint64            `json:"revision,omitempty" yaml:"revision,omitempty"` // when set in apply, it must still be the current one
}

// GetResourcesRequest reads one resource, or pages through a kind.
type GetResourcesRequest struct {
	Kind  access.Resource `json:"kind"`
	Name  string          `json:"name,omitempty"`
	After string          `json:"after,omitempty"`
	Limit int             `json:"limit,omitempty"`
}

// GetResourcesResponse is one page.
type GetResourcesResponse struct {
	Resources []Resource `json:"resources"`
	Next      string     `json:"next,omitempty"`
}

// ApplyResourceRequest creates or changes a resource.
type ApplyResourceRequest struct {
	Resource Resource `json:"resource"`
}

// ApplyResourceResponse says what happened. Secret is the join token, shown this once.
type ApplyResourceResponse struct {
	Created  bool     `json:"created"`
	Resource Resource `json:"resource"`
	Secret   string   `json:"secret,omitempty"`
	Note     string   `json:"note,omitempty"` // what the administrator should know, as "takes effect when the node renews"
}

// RemoveResourceRequest names what to remove.
type RemoveResourceRequest struct {
	Kind access.Resource `json:"kind"`
	Name string          `json:"name"`
}

// RemoveResourceResponse has no fields yet.
type RemoveResourceResponse struct{}
