package authrpc

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/ascii"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
)

// BeginLoginRequest begins a login attempt for a browser. The auth service stores nothing: the attempt is in
// the sealed Attempt of the response, which the proxy keeps in a cookie.
type BeginLoginRequest struct {
	// Challenge commits to tsh's verifier and both public keys: see the function Challenge.
	Challenge string `json:"challenge,omitempty"`
	// Callback is tsh's loopback address, http://127.0.0.1:PORT/callback (RFC 8252 section 7.3).
	Callback string `json:"callback,omitempty"`
	// State is tsh's own state, which is returned with the code to Callback.
	State string `json:"state,omitempty"`
	// Connector names the provider. It may be empty while there is only one.
	Connector string `json:"connector,omitempty"`
	// PublicOrigin is the proxy's own origin, https://host[:port]. The provider sends the browser back to it,
	// with the path CallbackPath(connector).
	PublicOrigin string     `json:"public"`
	From         netip.Addr `json:"from,omitzero"`    // the browser's address
	Host         string     `json:"host,omitempty"`   // what the computer on which tsh runs calls itself
	Locale       string     `json:"locale,omitempty"` // the user's language (BCP 47), for the provider's page

	// Handle names a login for a machine without a browser, which BeginHeadless began. Challenge, Callback
	// and State are empty then. The login goes on only with Confirmed, which says that the user has compared
	// the code and the address of that machine.
	Handle    string `json:"handle,omitempty"`
	Confirmed bool   `json:"confirmed,omitempty"`
}

// Headless describes a login for a machine without a browser. The user compares it with that machine's
// terminal before the login begins.
type Headless struct {
	Host    string    `json:"host,omitempty"` // what the machine calls itself: it may say anything
	From    string    `json:"from"`           // the machine's address, as its proxy signed it
	Code    string    `json:"code"`           // XXXX-XXXX
	Expires time.Time `json:"expires"`
}

var hostName = ascii.Form{
	First: ascii.Of("A-Za-z0-9"), Inner: ascii.Of("A-Za-z0-9._-"), Last: ascii.Of("A-Za-z0-9"), Max: 64,
}

// ValidHostName reports whether a computer may call itself name in a login: a host name cannot look like more
// on a page.
func ValidHostName(name string) bool { return hostName.Matches(name) }

// CallbackPrefix begins the path to which a provider sends the browser back. Each connector has a path of its
// own, so that no provider can receive the code of another (mix-up attack, RFC 9700 section 4.4.2).
const CallbackPrefix = "/login/callback/"

// CallbackPath is the path of a connector's callback.
func CallbackPath(connector string) string { return CallbackPrefix + connector }

// BeginLoginResponse is one of three: Attempt, Redirect and Expires when the login has begun; Connectors when
// the user must choose one first; Headless when the request had a handle and was not confirmed.
type BeginLoginResponse struct {
	Attempt    string      `json:"attempt,omitempty"`  // sealed, for the cookie
	Redirect   string      `json:"redirect,omitempty"` // the provider's page
	Connectors []Connector `json:"connectors,omitempty"`
	Headless   *Headless   `json:"headless,omitempty"`
	Expires    time.Time   `json:"expires,omitzero"`
}

// Connector is a provider as the login page lists it.
type Connector struct {
	Name        string `json:"name"`
	DisplayName string `json:"display"`
}

// FinishOIDCRequest has the parameters with which the provider sent the browser back.
type FinishOIDCRequest struct {
	Attempt          string     `json:"attempt"`
	Connector        string     `json:"connector"` // the connector whose callback path the browser came to
	State            string     `json:"state"`
	Code             string     `json:"code,omitempty"`
	Issuer           string     `json:"iss,omitempty"`   // RFC 9207: the provider's name
	Error            string     `json:"error,omitempty"` // RFC 6749 section 4.1.2.1
	ErrorDescription string     `json:"error_description,omitempty"`
	From             netip.Addr `json:"from,omitzero"`
}

// FinishOIDCResponse has the attempt of a user whom the provider has identified. ShowFactor tells what the
// page for the second factor shows.
type FinishOIDCResponse struct {
	Attempt string    `json:"attempt"` // sealed; now identified
	Expires time.Time `json:"expires"`
}

// ShowFactorRequest asks what the page for the second factor shows. Any proxy may ask, as often as the
// browser loads the page.
type ShowFactorRequest struct {
	Attempt string     `json:"attempt"`
	From    netip.Addr `json:"from,omitzero"`
}

// ShowFactorResponse asks for the second factor.
type ShowFactorResponse struct {
	Name string `json:"name"` // the user, as the provider names them
	// Challenges are those of which one must be answered: one for each kind of the user's factors, or an
	// enrolment.
	Challenges []FactorChallenge `json:"challenges"`
	Headless   *Headless         `json:"headless,omitempty"` // for a machine without a browser
	Expires    time.Time         `json:"expires"`
}

// FactorChallenge is what a user must answer to prove a second factor of one kind.
type FactorChallenge struct {
	Kind  string          `json:"kind"` // such as TOTP
	Enrol bool            `json:"enrol,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"` // depends on the kind: TOTPEnrolment
}

// TOTP is the kind of factor that an authenticator app is (RFC 6238).
const TOTP = "totp"

// TOTPEnrolment is the body of a challenge that enrols an authenticator app. An answer to it, and to any
// other challenge of the kind, is the code that the app shows, as a JSON string.
type TOTPEnrolment struct {
	URI    string `json:"uri"`    // otpauth://totp/…, for the QR code
	Secret string `json:"secret"` // base32, for typing
}

// ProveFactorRequest answers one of the challenges. A recovery code, as a JSON string, answers any.
type ProveFactorRequest struct {
	Attempt  string         `json:"attempt"`
	Response FactorResponse `json:"response"`
	From     netip.Addr     `json:"from,omitzero"`
}

// FactorResponse is the answer to the challenge of its kind.
type FactorResponse struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

// ProveFactorResponse ends the browser's part of a login. After a wrong code the call fails; the same Attempt
// may be used again until it expires.
type ProveFactorResponse struct {
	// Redirect is tsh's Callback with the one-time code and the state. It is empty for a headless login.
	Redirect      string    `json:"redirect,omitempty"`
	Name          string    `json:"name"`
	RecoveryCodes []string  `json:"recovery_codes,omitempty"` // after enrolment, shown once
	Headless      *Headless `json:"headless,omitempty"`       // as in ShowFactorResponse
}

// Keys are what a challenge commits to: the verifier and both public keys.
type Keys struct {
	Verifier string `json:"verifier"`
	SSHKey   []byte `json:"ssh_key"`  // SSH wire format
	X509Key  []byte `json:"x509_key"` // PKIX DER
}

// RedeemLoginRequest exchanges the one-time code for certificates.
type RedeemLoginRequest struct {
	Code string `json:"code"`
	Keys
}

// RedeemLoginResponse has everything that a client needs to connect to nodes.
type RedeemLoginResponse struct {
	Identity identity.Identity `json:"identity"`
	SSHCert  []byte            `json:"ssh_cert,omitempty"` // SSH wire format; none for a user without logins
	X509     [][]byte          `json:"x509"`               // DER, leaf first
	Logins   []identity.Login  `json:"logins,omitempty"`
	// Authorities is the chain of signed authorities documents, by which the client verifies nodes and
	// proxies. Users do not get the roles document.
	Authorities []rules.Signed `json:"authorities"`
	// MachineLocks is the signed document of machine locks; nil before auth has signed one.
	MachineLocks *rules.Signed `json:"machine_locks,omitempty"`
	Time         time.Time     `json:"time"` // auth's clock
}

// BeginHeadlessRequest begins a login on a machine without a browser.
type BeginHeadlessRequest struct {
	Challenge string `json:"challenge"`
	Host      string `json:"host,omitempty"` // what this machine calls itself
}

// BeginHeadlessResponse has the handle for the link HeadlessPath?handle=…, which the user opens in a browser
// on another machine.
type BeginHeadlessResponse struct {
	Handle       string        `json:"handle"`
	Code         string        `json:"code"` // the user compares it with the page
	From         string        `json:"from"` // this machine's address, as auth sees it
	Expires      time.Time     `json:"expires"`
	PollInterval time.Duration `json:"every"` // how often to call RedeemHeadless
}

// HeadlessPath is the path of the page that a headless login's link opens.
const HeadlessPath = "/login/headless"

// RedeemHeadlessRequest asks for the certificates of a headless login.
type RedeemHeadlessRequest struct {
	Handle string `json:"handle"`
	Keys
}

// RedeemHeadlessResponse has no Login while the user has not finished it in the browser.
type RedeemHeadlessResponse struct {
	Login *RedeemLoginResponse `json:"login,omitempty"`
}

// JoinRequest asks to make a machine a member. Proof is a signature with the X.509 key: see JoinProof.
type JoinRequest struct {
	Token       string          `json:"token"`
	Kind        identity.Kind   `json:"kind"`
	Name        string          `json:"name"`             // proposed; auth decides
	Labels      identity.Labels `json:"labels,omitempty"` // those that the machine gives itself
	PublicNames []string        `json:"names,omitempty"`  // proxy: its public host names and addresses
	SSHKey      []byte          `json:"ssh_key"`          // host key, SSH wire format
	X509Key     []byte          `json:"x509_key"`         // PKIX DER
	Proof       []byte          `json:"proof"`
	Time        time.Time       `json:"time"` // the machine's clock, so that auth can report a wrong one
}

// JoinResponse has all that makes the machine a member.
type JoinResponse struct {
	Identity identity.Identity `json:"identity"`
	SSHCert  []byte            `json:"ssh_cert"`
	X509     [][]byte          `json:"x509"` // DER, leaf first, cluster root last
	Rules    rules.Set         `json:"rules"`
	Time     time.Time         `json:"time"`
}

// RenewRequest asks for new certificates for the keys that auth has on record. The TLS client certificate
// says which machine asks.
type RenewRequest struct {
	Time time.Time `json:"time"`
}

// RenewResponse is a JoinResponse.
type RenewResponse = JoinResponse

// WatchRulesRequest asks for the rules.
type WatchRulesRequest struct {
	// Have has the digest of each document that the caller has, by kind. Of those, it gets what has changed.
	Have map[rules.Kind][]byte `json:"have,omitempty"`
}

// RulesUpdate is one piece of the rules, in the form that rules.Receiver takes. A stream sends at once what
// the caller lacks, and then what changes; the head comes after the documents that it names.
type RulesUpdate struct {
	Piece json.RawMessage `json:"piece"`
}

// GetRulesResponse has all pieces of the rules that the caller lacks, in order.
type GetRulesResponse struct {
	Pieces []json.RawMessage `json:"pieces"`
}

// ReportNodesRequest lists all nodes that are attached to the calling proxy. Each report replaces the one
// before and renews the proxy's lease on it.
type ReportNodesRequest struct {
	Attached []AttachedNode `json:"attached"`
}

// AttachedNode is one node of a report, with its signed attachment.
type AttachedNode struct {
	Node       identity.MachineID      `json:"node"`
	Attachment tunnel.SignedAttachment `json:"attachment"`
	Version    string                  `json:"version,omitempty"`
}

// ReportNodesResponse says after how long to report again even if nothing changed.
type ReportNodesResponse struct {
	ReportAfter time.Duration `json:"report_after"`
}

// ReportAcknowledgementsRequest passes on by which rules machines decide: the nodes that are attached to the
// calling proxy, and the proxy itself. A proxy sends what is new, and everything again when the heads of the
// rules are of another term: the auth service keeps it in memory alone.
type ReportAcknowledgementsRequest struct {
	Acknowledgements []MachineAcknowledgement `json:"acknowledgements"` // at most MaxAcknowledgements
}

// MachineAcknowledgement is what one machine has signed: see rules.Acknowledgement.
type MachineAcknowledgement struct {
	Machine identity.MachineID `json:"machine"`
	Signed  rules.Signed       `json:"signed"`
}

// MaxAcknowledgements bounds one ReportAcknowledgementsRequest.
const MaxAcknowledgements = 1000

// ReportAcknowledgementsResponse has no fields yet.
type ReportAcknowledgementsResponse struct{}

// GetAuthoritiesRequest has no fields yet.
type GetAuthoritiesRequest struct{}

// GetAuthoritiesResponse is the chain as in RedeemLoginResponse.
type GetAuthoritiesResponse struct {
	Authorities []rules.Signed `json:"authorities"`
}

// GetMachineLocksRequest has no fields yet.
type GetMachineLocksRequest struct{}

// GetMachineLocksResponse has the signed document of machine locks. tsh asks for it when a proxy has one that
// is too large for its reply: see dial.Reply.
type GetMachineLocksResponse struct {
	MachineLocks rules.Signed `json:"machine_locks"`
}

// LocateNodeRequest asks for a node by its whole name, name.cluster, or id.
type LocateNodeRequest struct {
	Node string `json:"node"`
}

// LocateNodeResponse has the node, or none.
type LocateNodeResponse struct {
	Nodes []NodeInfo `json:"nodes"`
}

// NodeInfo is a node in listings.
type NodeInfo struct {
	ID       identity.MachineID `json:"id"`
	Name     string             `json:"name"`
	Labels   identity.Labels    `json:"labels,omitempty"`
	Online   bool               `json:"online"`
	Proxies  []string           `json:"proxies,omitempty"` // the names of the proxies that it is attached to
	LastSeen time.Time          `json:"last_seen,omitzero"`
	Version  string             `json:"version,omitempty"`
	Logins   []identity.Login   `json:"logins,omitempty"` // those that the caller may use there
}

// Access is the node in the form that Policy.Decide of package access takes.
func (n NodeInfo) Access() access.Node {
	return access.Node{ID: n.ID, Name: n.Name, Labels: n.Labels}
}

// SendEventsRequest has events to store, those of one spool in the order of their numbers. An event that is
// sent twice is stored once: its number says so.
type SendEventsRequest struct {
	Events []audit.Event `json:"events"` // at most MaxEvents, and MaxEventsBytes as JSON
}

// MaxEvents bounds one SendEventsRequest.
const MaxEvents = 200

// SendEventsResponse is sent once the events are stored.
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
	// Labels must all match. Values may have wildcards, and the key "name" stands for the node's name.
	Labels map[string]string `json:"labels,omitempty"`
	// Name is a whole name, its first label (which several nodes may share), name.cluster, or an id.
	Name  string `json:"name,omitempty"`
	After string `json:"after,omitempty"`
	Limit int    `json:"limit,omitempty"` // 0 means 1000
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
	// Status is the current state, not what was asked for.
	Status json.RawMessage `json:"status,omitempty" yaml:"status,omitempty"`
}

// Metadata names a resource.
type Metadata struct {
	Name   string            `json:"name"               yaml:"name"`
	Labels map[string]string `json:"labels,omitempty"   yaml:"labels,omitempty"`
	// Revision is the current one. When it is set in apply, the resource must still have it.
	Revision uint64 `json:"revision,omitempty" yaml:"revision,omitempty"`
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

// ApplyResourceResponse says what was done. Secret is a new join token, which is shown only here.
type ApplyResourceResponse struct {
	Created  bool     `json:"created"`
	Resource Resource `json:"resource"`
	Secret   string   `json:"secret,omitempty"`
	// Note is what the administrator should know, as "takes effect when the node renews".
	Note string `json:"note,omitempty"`
}

// RemoveResourceRequest names what to remove.
type RemoveResourceRequest struct {
	Kind access.Resource `json:"kind"`
	Name string          `json:"name"`
}

// RemoveResourceResponse has no fields yet.
type RemoveResourceResponse struct{}

// LockConfirmationsRequest asks which machines decide by a lock. Whoever may get or apply locks may ask.
type LockConfirmationsRequest struct {
	// Lock is the id of the lock. Empty means all locks that there are now, also after one was removed.
	Lock string `json:"lock,omitempty"`
	// Wait is how long to wait for machines that are attached and have not confirmed: the answer comes when
	// all have, or after Wait, or after MaxConfirmationsWait.
	Wait time.Duration `json:"wait,omitempty"`
}

// Bounds of LockConfirmations.
const (
	MaxConfirmationsWait = 20 * time.Second // whoever waits for longer calls again
	MaxUnconfirmed       = 1000             // machines in each list of an answer
)

// LockConfirmationsResponse says which machines have not confirmed a lock. A machine that is itself locked
// does not count: the others keep it out.
type LockConfirmationsResponse struct {
	Revision uint64 `json:"revision"` // of the lock; of all locks, that of the last change
	// Attached is how many machines count: nodes with a tunnel to a proxy, those that had one a moment ago,
	// and proxies that report to the auth service. Confirmed is how many of these have confirmed.
	Attached  int `json:"attached"`
	Confirmed int `json:"confirmed"`
	// Silent are attached and have not confirmed, by name. Where there are more than MaxUnconfirmed, the list
	// has the first; Attached less Confirmed is how many there are.
	Silent []UnconfirmedMachine `json:"silent,omitempty"`
	// Offline are not attached and have not confirmed, likewise, and OfflineCount is how many there are. A
	// proxy gives such a machine the locks when it attaches. A stolen proxy need not, and can keep silent of
	// a node that is attached to it, so an offline machine is no proof that nobody reaches it.
	Offline      []UnconfirmedMachine `json:"offline,omitempty"`
	OfflineCount int                  `json:"offline_count"`
}

// UnconfirmedMachine is a machine that has not confirmed a lock.
type UnconfirmedMachine struct {
	ID   identity.MachineID `json:"id"`
	Name string             `json:"name"`
	Kind identity.Kind      `json:"kind"` // node or proxy
	// Locks are the revisions of the documents of locks that it has confirmed last, and Time when it signed
	// that, by its own clock and not after the auth service got it. Both are empty if the auth service has
	// heard nothing of it since it started, as of a machine whose program does not confirm rules.
	Locks map[rules.Kind]rules.Revision `json:"locks,omitempty"`
	Time  time.Time                     `json:"time,omitzero"`
}
