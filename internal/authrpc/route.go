// Package authrpc answers: which calls does the auth service serve, for whom, and in which format?
//
// The wire is HTTP/1.1 with JSON bodies over TLS 1.3, ALPN threshold-auth, end to end: proxies pass it
// through unopened. Each Route is one call: its name, path and types, and who may call it. Client calls them,
// Server serves them, and the table is the contract. Every call is POST. A refusal is a fault.Error with the
// status of its kind. Within v1 the types only grow.
package authrpc

import (
	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of what is read from a peer.
const (
	MaxBodyBytes     = 256 << 10 // of a request
	MaxAnonymousBody = 16 << 10  // of a request without a client certificate
	MaxEventsBytes   = 1 << 20   // of a machine's events
	MaxReportBytes   = 16 << 20  // of a proxy's report: some 20,000 nodes
	MaxAnswerBytes   = 32 << 20  // of a response, or of one message of a stream; holds a rules.Set

	MaxAcknowledgementsBytes = 5 << 20 // of MaxAcknowledgements, which are less than 4 KiB each
)

// Anonymous is the kind of a caller without a client certificate.
const Anonymous identity.Kind = ""

// Route is one call. Path is "/v1/" and Name.
type Route[Req, Res any] struct {
	Name string
	// Callers lists the kinds that may call. The zero value denies everybody.
	Callers []identity.Kind
	// AllowExpired lets a machine call whose certificate has expired. Only renewal does: the TLS handshake
	// has proved that the caller holds the key.
	AllowExpired bool
	// MaxBody bounds the request's body in bytes. Zero means MaxBodyBytes, or MaxAnonymousBody for a caller
	// without a certificate.
	MaxBody int64
	// Stream says that the response is a sequence of Res, one JSON value a line, until either side ends it.
	Stream bool
}

// Path is the path of the route's URL.
func (r Route[Req, Res]) Path() string { return "/v1/" + r.Name }

func callers(k ...identity.Kind) []identity.Kind { return k }

// The routes.
var (
	// Login, in the order of its steps. A proxy calls all but RedeemLogin, for the browser that it serves.
	BeginLogin = Route[BeginLoginRequest, BeginLoginResponse]{
		Name:    "login/begin",
		Callers: callers(identity.Proxy),
	}
	FinishOIDC = Route[FinishOIDCRequest, FinishOIDCResponse]{
		Name:    "login/oidc",
		Callers: callers(identity.Proxy),
	}
	ShowFactor = Route[ShowFactorRequest, ShowFactorResponse]{
		Name:    "login/factor/show",
		Callers: callers(identity.Proxy),
	}
	ProveFactor = Route[ProveFactorRequest, ProveFactorResponse]{
		Name:    "login/factor",
		Callers: callers(identity.Proxy),
	}
	RedeemLogin = Route[RedeemLoginRequest, RedeemLoginResponse]{
		Name:    "login/redeem",
		Callers: callers(Anonymous, identity.User),
	}

	// Login for a machine without a browser. The user approves it in a browser elsewhere: see BeginLogin.
	BeginHeadless = Route[BeginHeadlessRequest, BeginHeadlessResponse]{
		Name:    "login/headless",
		Callers: callers(Anonymous),
	}
	RedeemHeadless = Route[RedeemHeadlessRequest, RedeemHeadlessResponse]{
		Name:    "login/headless/redeem",
		Callers: callers(Anonymous),
	}

	// Machines.
	Join  = Route[JoinRequest, JoinResponse]{Name: "join", Callers: callers(Anonymous)}
	Renew = Route[RenewRequest, RenewResponse]{
		Name:         "renew",
		Callers:      callers(identity.Node, identity.Proxy),
		AllowExpired: true,
	}
	WatchRules = Route[WatchRulesRequest, RulesUpdate]{
		Name:    "rules/watch",
		Callers: callers(identity.Proxy),
		Stream:  true,
	}
	GetRules = Route[WatchRulesRequest, GetRulesResponse]{
		Name:    "rules/get",
		Callers: callers(identity.Proxy, identity.Node),
	}
	ReportNodes = Route[ReportNodesRequest, ReportNodesResponse]{
		Name:    "nodes/report",
		Callers: callers(identity.Proxy),
		MaxBody: MaxReportBytes,
	}
	ReportAcknowledgements = Route[ReportAcknowledgementsRequest, ReportAcknowledgementsResponse]{
		Name:    "rules/acknowledge",
		Callers: callers(identity.Proxy),
		MaxBody: MaxAcknowledgementsBytes,
	}
	LocateNode = Route[LocateNodeRequest, LocateNodeResponse]{
		Name:    "nodes/locate",
		Callers: callers(identity.Proxy),
	}
	SendEvents = Route[SendEventsRequest, SendEventsResponse]{
		Name:    "events/send",
		Callers: callers(identity.Node),
		MaxBody: MaxEventsBytes,
	}

	// Users.
	WhoAmI         = Route[WhoAmIRequest, WhoAmIResponse]{Name: "whoami", Callers: callers(identity.User)}
	GetAuthorities = Route[GetAuthoritiesRequest, GetAuthoritiesResponse]{
		Name:    "authorities/get",
		Callers: callers(identity.User),
	}
	GetMachineLocks = Route[GetMachineLocksRequest, GetMachineLocksResponse]{
		Name:    "machine-locks/get",
		Callers: callers(identity.User),
	}
	ListNodes = Route[ListNodesRequest, ListNodesResponse]{
		Name:    "nodes/list",
		Callers: callers(identity.User),
	}
	GetResources = Route[GetResourcesRequest, GetResourcesResponse]{
		Name:    "resources/get",
		Callers: callers(identity.User),
	}
	ApplyResource = Route[ApplyResourceRequest, ApplyResourceResponse]{
		Name:    "resources/apply",
		Callers: callers(identity.User),
	}
	RemoveResource = Route[RemoveResourceRequest, RemoveResourceResponse]{
		Name:    "resources/rm",
		Callers: callers(identity.User),
	}
	LockConfirmations = Route[LockConfirmationsRequest, LockConfirmationsResponse]{
		Name:    "locks/confirmations",
		Callers: callers(identity.User),
	}
)
