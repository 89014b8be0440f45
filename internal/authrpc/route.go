// Package authrpc answers: what can be asked of auth, by whom, in which words?
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
	MaxReportBytes   = 16 << 20  // of a proxy's report: some 20,000 nodes
	MaxAnswerBytes   = 8 << 20   // of a response, or of one message of a stream
)

// Anonymous is the caller kind of one who shows no certificate.
const Anonymous identity.Kind = ""

// Route is one call. Path is "/v1/" and Name.
type Route[Req, Res any] struct {
	Name string
	// Callers lists who may call. Deny is the zero value: nobody.
	Callers []identity.Kind
	// AllowExpired lets a machine whose certificate has ended call: only renewal does, because the TLS
	// handshake proved the key.
	AllowExpired bool
	// MaxBody bounds the request's body in bytes. Zero means MaxBodyBytes, or MaxAnonymousBody for a caller
	// without a certificate.
	MaxBody int64
	// Stream: the response is a sequence of Res, one JSON value a line, until either side ends it.
	Stream bool
}

// Path is where the route is served.
func (r Route[Req, Res]) Path() string { return "/v1/" + r.Name }

func callers(k ...identity.Kind) []identity.Kind { return k }

// The routes.
var (
	// Login, step by step; all but redeem are asked by a proxy for the browser in front of it.
	BeginLogin = Route[BeginLoginRequest, BeginLoginResponse]{
		Name:    "login/begin",
		Callers: callers(identity.Proxy),
	}
	FinishOIDC = Route[FinishOIDCRequest, FinishOIDCResponse]{
		Name:    "login/oidc",
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

	// Login for a machine without a browser, by what it shows a person who has one.
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
	GetRules = Route[WatchRulesRequest, RulesUpdate]{
		Name:    "rules/get",
		Callers: callers(identity.Proxy, identity.Node),
	}
	ReportNodes = Route[ReportNodesRequest, ReportNodesResponse]{
		Name:    "nodes/report",
		Callers: callers(identity.Proxy),
		MaxBody: MaxReportBytes,
	}
	LocateNode = Route[LocateNodeRequest, LocateNodeResponse]{
		Name:    "nodes/locate",
		Callers: callers(identity.Proxy),
	}
	SendEvents = Route[SendEventsRequest, SendEventsResponse]{
		Name:    "events/send",
		Callers: callers(identity.Node, identity.Proxy),
	}

	// People.
	WhoAmI         = Route[WhoAmIRequest, WhoAmIResponse]{Name: "whoami", Callers: callers(identity.User)}
	GetAuthorities = Route[GetAuthoritiesRequest, GetAuthoritiesResponse]{
		Name:    "authorities/get",
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
)
