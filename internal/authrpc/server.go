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
	identity.Identity                  // Kind is Anonymous for a caller without a certificate
	Key               crypto.PublicKey // the key of its certificate; nil without one
	Expired           bool             // the certificate has expired; only routes with AllowExpired serve it
	Addr              net.Addr         // the client's address; behind a proxy, the one that the proxy signed
	Proxy             string           // the name of that proxy; empty for a direct connection
}

// Server is an http.Handler for the routes that were given to Handle and HandleStream. Those are called
// before it serves; it is safe for concurrent use from then on.
type Server struct {
	mux        *http.ServeMux
	caller     func(*http.Request) (Caller, error)
	log        *slog.Logger
	refusalLog *limitedlog.Logger // refusals that anybody can cause: see logRefusal
}

// Limits of the refusals in the log that anybody can cause: one line every refusalLogInterval, after a burst.
const (
	refusalLogInterval = 100 * time.Millisecond
	refusalLogBurst    = 100
)

// NewServer makes a server. caller says who makes a request; when it fails, so does the call.
func NewServer(caller func(*http.Request) (Caller, error), log *slog.Logger) *Server {
	return &Server{
		mux:        http.NewServeMux(),
		caller:     caller,
		log:        log,
		refusalLog: limitedlog.New(log, refusalLogInterval, refusalLogBurst, nil),
	}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Handle serves a route with fn. An error of fn is sent as fault.Public gives it, and logged whole.
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
	s.handle(r.Name, r.Path(), r.Callers, r.AllowExpired, handler)
}

// HandleStream serves a streaming route: fn sends messages until it returns. Its context ends when the caller
// hangs up.
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
		flush := http.NewResponseController(w)
		sent := false
		err := fn(hr.Context(), c, req, func(res Res) error {
			sent = true
			if err := json.NewEncoder(w).Encode(res); err != nil {
				return err
			}
			return flush.Flush()
		})
		if sent {
			return nil // the status was sent already; the client sees the stream end and calls again
		}
		return err
	}
	s.handle(r.Name, r.Path(), r.Callers, r.AllowExpired, handler)
}

// handle registers fn for a path. fn runs only for a caller of one of the kinds, with a certificate that has
// not ended unless allowExpired.
func (s *Server) handle(
	name, path string,
	kinds []identity.Kind,
	allowExpired bool,
	fn func(http.ResponseWriter, *http.Request, Caller) error,
) {
	s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		c, err := s.caller(r)
		switch {
		case err != nil:
		case !slices.Contains(kinds, c.Kind):
			err = refuseCallerKind(name, c)
		case c.Expired && !allowExpired:
			err = fault.New(fault.Expired, name, "the certificate has expired", "run: tsh login")
		default:
			err = fn(w, r, c)
		}
		if err != nil {
			s.refuse(w, name, c, err)
		}
	})
}

func refuseCallerKind(name string, c Caller) error {
	if c.Kind == Anonymous {
		return fault.New(fault.Unauthenticated, name, "this needs a certificate", "run: tsh login")
	}
	msg := "a " + string(c.Kind) + " certificate may not do this"
	return fault.New(fault.Denied, name, msg, "log in as a user: tsh login")
}

// refuse answers a call with a fault and logs it with its cause.
func (s *Server) refuse(w http.ResponseWriter, name string, c Caller, err error) {
	public := fault.Public(err)
	s.logRefusal(name, c, public, err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(Status(public.Kind))
	_ = json.NewEncoder(w).Encode(public) // fails only when the caller has hung up
}

// logRefusal writes each refusal of a user or node. Those of anonymous callers and of proxies are limited in
// rate: anybody can cause them, the latter by the proxy's login page.
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

// readBody decodes a request's JSON body of at most limit bytes; 0 stands for MaxBodyBytes. An anonymous
// caller never gets more than MaxAnonymousBody. An empty body leaves the zero value.
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
		return fault.Wrap(err, fault.Invalid, r.URL.Path, "the request is too large", "send less at once")
	case err != nil && !errors.Is(err, io.EOF):
		return fault.Wrap(err, fault.Invalid, strings.TrimPrefix(r.URL.Path, "/v1/"),
			"the request could not be read",
			"check that client and server versions match: tsh version",
		)
	}
	return nil
}
