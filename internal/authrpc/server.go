package authrpc

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limitedlog"
)

// Caller is who makes a call, as the TLS handshake showed.
type Caller struct {
	identity.Identity                    // from the certificate; Kind is Anonymous without one
	Key               crypto.PublicKey   // the key of its certificate; nil without one
	Expired           bool               // the certificate has; only routes with AllowExpired serve it
	Addr              net.Addr           // the client's; behind a proxy, the one that the proxy signed
	Proxy             string             // the name of that proxy; empty for a direct connection
	ProxyID           identity.MachineID // its id
	Serial            identity.Serial    // of the certificate; zero without one
}

// Server is an http.Handler that serves the routes registered by Handle and HandleStream. All routes must be
// registered before it serves the first request. From then on it is safe for concurrent use.
type Server struct {
	mux        *http.ServeMux
	identify   func(*http.Request) (Caller, error) // says who makes a request
	log        *slog.Logger
	refusalLog *limitedlog.Logger // refusals that anybody can cause: see logRefusal
}

// The rate at which refusalLog writes: at first refusalLogBurst lines, then one every refusalLogInterval.
const (
	refusalLogInterval = 100 * time.Millisecond
	refusalLogBurst    = 100
)

// NewServer makes a server without routes. identify says who makes a request: it reads the TLS connection of
// the request, which has been authenticated. If it returns an error, that is sent as the refusal of the call.
func NewServer(identify func(*http.Request) (Caller, error), log *slog.Logger) *Server {
	return &Server{
		mux:        http.NewServeMux(),
		identify:   identify,
		log:        log,
		refusalLog: limitedlog.New(log, refusalLogInterval, refusalLogBurst, nil),
	}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Handle registers fn for a route. fn is called only for callers that the route allows, with the decoded
// request. It may be called by several goroutines at once. Its result is the response. Its error goes to the
// caller as a fault.Error without the cause (fault.Public), and with the cause to the log.
func Handle[Req, Res any](s *Server, r Route[Req, Res], fn func(context.Context, Caller, Req) (Res, error)) {
	handler := func(w http.ResponseWriter, hr *http.Request, c Caller) error {
		var req Req
		if err := readBody(w, hr, c, r.MaxBody, &req); err != nil {
			return err
		}
		res, err := fn(hr.Context(), c, req)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(res)
	}
	s.register(r.Name, r.Path(), r.Callers, r.AllowExpired, handler)
}

// HandleStream registers fn for a streaming route: a call has one request and any number of response
// messages. fn calls send for each message, and the response ends when fn returns. send returns an error once
// the caller has hung up; the context of fn ends then too.
//
// If fn returns an error before its first message, the caller gets the error as from Handle. An error after
// the first message is neither sent nor logged, because the response with its status has begun by then. The
// caller sees only that the stream ends, and calls again.
func HandleStream[Req, Res any](
	s *Server,
	r Route[Req, Res],
	fn func(ctx context.Context, c Caller, req Req, send func(Res) error) error,
) {
	handler := func(w http.ResponseWriter, hr *http.Request, c Caller) error {
		var req Req
		if err := readBody(w, hr, c, r.MaxBody, &req); err != nil {
			return err
		}
		response := http.NewResponseController(w)
		responseBegun := false
		send := func(res Res) error {
			responseBegun = true
			if err := json.NewEncoder(w).Encode(res); err != nil {
				return err
			}
			return response.Flush() // the caller must get each message at once
		}
		err := fn(hr.Context(), c, req, send)
		if responseBegun {
			return nil // a fault now would be read as one more message
		}
		return err
	}
	s.register(r.Name, r.Path(), r.Callers, r.AllowExpired, handler)
}

// register makes s serve path; name is the route's name in faults. For each request the server first finds
// out who the caller is, and checks that the caller's kind is one of kinds and that its certificate has not
// expired; allowExpired leaves the last check out. Then it calls fn, which writes the response. If the caller
// is refused or fn returns an error, the server answers with a fault. So fn must return nil once it has
// written a part of the response.
func (s *Server) register(
	name, path string,
	kinds []identity.Kind,
	allowExpired bool,
	fn func(http.ResponseWriter, *http.Request, Caller) error,
) {
	s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		c, err := s.identify(r)
		switch {
		case err != nil: // sent below
		case !slices.Contains(kinds, c.Kind):
			err = callerKindFault(name, c)
		case c.Expired && !allowExpired:
			err = certificateExpired.New(name)
		default:
			err = fn(w, r, c)
		}
		if err != nil {
			s.refuse(w, name, c, err)
		}
	})
}

// callerKindFault is for a caller whose kind may not call the route name.
func callerKindFault(name string, c Caller) error {
	if c.Kind == Anonymous {
		return certificateMissing.New(name)
	}
	return certificateOfOtherKind.New(name, fault.Args{"kind": string(c.Kind)})
}

// refuse answers a call with what fault.Public returns for err, and logs err whole.
func (s *Server) refuse(w http.ResponseWriter, name string, c Caller, err error) {
	public := fault.Public(err)
	s.logRefusal(name, c, public, err)
	w.Header().Set("Content-Type", "application/json")
	SetRetryAfter(w.Header(), public)
	w.WriteHeader(Status(public.Kind))
	_ = json.NewEncoder(w).Encode(public) // fails only when the caller has hung up
}

// logRefusal logs a refused call. Every refusal of a user or a node is logged. Refusals of anonymous callers
// and of proxies are limited in rate, because anybody can cause them: a proxy makes calls for whoever opens
// its login page.
func (s *Server) logRefusal(name string, c Caller, public *fault.Error, err error) {
	level := slog.LevelInfo
	if public.Kind == fault.Internal {
		level = slog.LevelError
	}
	attrs := []any{
		"route", name, "caller", callerName(c), "from", c.Addr, "proxy", c.Proxy,
		"kind", public.Kind, "id", public.ID, "err", err,
	}
	if c.Kind == Anonymous || c.Kind == identity.Proxy {
		s.refusalLog.Log(level, "call refused", attrs...)
		return
	}
	s.log.Log(context.Background(), level, "call refused", attrs...)
}

func callerName(c Caller) string {
	if c.Kind == Anonymous {
		return "anonymous"
	}
	return c.Identity.String()
}

// readBody decodes the JSON body of a request into *into. An empty body leaves it unchanged. limit bounds the
// body in bytes; 0 stands for MaxBodyBytes. For an anonymous caller the bound is always MaxAnonymousBody. The
// error is a fault of kind Invalid.
func readBody(w http.ResponseWriter, r *http.Request, c Caller, limit int64, into any) error {
	if limit == 0 {
		limit = MaxBodyBytes
	}
	if c.Kind == Anonymous {
		limit = MaxAnonymousBody
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	err := dec.Decode(into)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return requestTooLarge.Wrap(err, strings.TrimPrefix(r.URL.Path, "/v1/"))
	case err != nil && !errors.Is(err, io.EOF):
		return requestUnreadable.Wrap(err, strings.TrimPrefix(r.URL.Path, "/v1/"))
	}
	return nil
}
