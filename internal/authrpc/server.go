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
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Caller is who asks, as the TLS handshake showed.
type Caller struct {
	identity.Identity                  // Kind is Anonymous for one without a certificate
	Key               crypto.PublicKey // of the certificate shown
	Expired           bool             // the certificate has ended; only routes that say so serve it
	Addr              net.Addr         // the client's, by the word of Via where a proxy passed it through
	Proxy             string           // the name of that proxy; empty for a connection of the caller's own
}

// Server serves the routes that were handed to Handle and HandleStream.
type Server struct {
	mux    *http.ServeMux
	caller func(*http.Request) (Caller, error)
	log    *slog.Logger

	refusalLog *rate.Limiter // lines about refusals that somebody without a certificate can cause
	suppressed atomic.Int64  // refusals that went over it since the last line
}

// Strangers cause so many lines in the log a second, and so many in a burst. A login page's visitors stand
// behind a proxy's certificate.
const (
	refusalLogRate  = 10
	refusalLogBurst = 100
)

// NewServer makes a server that learns from caller who asks.
func NewServer(caller func(*http.Request) (Caller, error), log *slog.Logger) *Server {
	return &Server{
		mux:        http.NewServeMux(),
		caller:     caller,
		log:        log,
		refusalLog: rate.NewLimiter(refusalLogRate, refusalLogBurst),
	}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Handle serves a route.
func Handle[Req, Res any](s *Server, r Route[Req, Res], fn func(context.Context, Caller, Req) (Res, error)) {
	s.handle(
		r.Name,
		r.Path(),
		r.Callers,
		r.AllowExpired,
		func(w http.ResponseWriter, hr *http.Request, c Caller) error {
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
		},
	)
}

// HandleStream serves a streaming route: fn sends until it returns or the caller goes.
func HandleStream[Req, Res any](
	s *Server,
	r Route[Req, Res],
	fn func(ctx context.Context, c Caller, req Req, send func(Res) error) error,
) {
	s.handle(
		r.Name,
		r.Path(),
		r.Callers,
		r.AllowExpired,
		func(w http.ResponseWriter, hr *http.Request, c Caller) error {
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
				return nil // the status is on the wire already; the client sees the stream end and asks again
			}
			return err
		},
	)
}

func (s *Server) handle(
	name, path string,
	callers []identity.Kind,
	expired bool,
	fn func(http.ResponseWriter, *http.Request, Caller) error,
) {
	s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		c, err := s.caller(r)
		switch {
		case err != nil:
		case !slices.Contains(callers, c.Kind):
			err = refuseCallerKind(name, c)
		case c.Expired && !expired:
			err = fault.New(fault.Expired, name, "the certificate has ended", "run: tsh login")
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
	return fault.New(
		fault.Denied,
		name,
		"a "+string(c.Kind)+" certificate may not do this",
		"log in as a user: tsh login",
	)
}

func (s *Server) refuse(w http.ResponseWriter, name string, c Caller, err error) {
	public := fault.Public(err)
	s.logRefusal(name, c, public, err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(Status(public.Kind))
	_ = json.NewEncoder(w).Encode(public) // the caller is gone if this fails
}

func (s *Server) logRefusal(name string, c Caller, public *fault.Error, err error) {
	if (c.Kind == Anonymous || c.Kind == identity.Proxy) && !s.refusalLog.Allow() {
		s.suppressed.Add(1)
		return
	}
	level := slog.LevelInfo
	if public.Kind == fault.Internal {
		level = slog.LevelError
	}
	s.log.Log(
		context.Background(),
		level,
		"call refused",
		"route",
		name,
		"caller",
		callerName(c),
		"from",
		c.Addr,
		"via",
		c.Proxy,
		"kind",
		public.Kind,
		"id",
		public.ID,
		"unlogged_before",
		s.suppressed.Swap(0),
		"err",
		err,
	)
}

func callerName(c Caller) string {
	if c.Kind == Anonymous {
		return "anonymous"
	}
	return c.Identity.String()
}

func readBody(w http.ResponseWriter, r *http.Request, c Caller, limit int64, into any) error {
	if limit == 0 {
		limit = MaxBodyBytes
	}
	if c.Kind == Anonymous {
		limit = MaxAnonymousBody
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	err := dec.Decode(into)
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return fault.Wrap(err, fault.Invalid, r.URL.Path, "the request is too large", "send less at once")
	case err != nil && !errors.Is(err, io.EOF):
		return fault.Wrap(
			err,
			fault.Invalid,
			strings.TrimPrefix(r.URL.Path, "/v1/"),
			"the request could not be read",
			"check that client and server versions match: tsh version",
		)
	}
	return nil
}
