// Package web answers: what does a browser see?
//
// It serves the pages of a login (design section 4) and a word to whoever finds the door: html/template and
// one style sheet, no script. It decides nothing. Each step asks auth, and what lasts between the steps is in
// cookies: auth's sealed attempt, and for a reload a copy of what the page shows, sealed under a key of this
// process. It stores nothing.
package web

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of what a stranger may send, and how slowly.
const (
	maxBodyBytes   = 16 << 10
	maxHeaderBytes = 16 << 10
	maxStreams     = 32 // at once on one HTTP/2 connection
	headerTimeout  = 10 * time.Second
	readTimeout    = 30 * time.Second
	writeTimeout   = time.Minute
	idleTimeout    = time.Minute
	unreadTimeout  = 10 * time.Second // for a client that reads nothing of what it asks for; HTTP/2 answers pings without being asked twice
	stopTimeout    = 5 * time.Second
	// maxCalls is how many questions of browsers may be with auth at once.
	maxCalls = 64
	// logLinesPerSecond bounds what refusals put into the log.
	logLinesPerSecond = 10
)

// Config says what the pages need. All but Now is required.
type Config struct {
	Auth    *authrpc.Client
	Public  []string // host[:port] that people use, the first one preferred; other Host headers are refused
	Cluster string
	Pin     identity.Pin
	Version string
	// Transport is what the ping document tells tsh and machines. Empty: TLS.
	Transport dial.Transport
	// Connect takes over the byte stream of a WebSocket, which came in the connection outer. Nil: there are
	// none.
	Connect func(outer, stream net.Conn)
	// KeepAlive is how long a WebSocket is silent at most. Zero: egress.KeepAlive.
	KeepAlive time.Duration
	// Balancers say in X-Forwarded-For for whom they come. Nobody else is believed.
	Balancers []netip.Prefix
	Now       func() time.Time // zero: time.Now
	Log       *slog.Logger
}

// Server serves the pages.
type Server struct {
	cfg        Config
	hosts      map[string]string // Host header → origin
	handler    http.Handler
	seal       sealer
	calls      chan struct{}
	logLimiter *rate.Limiter
	unlogged   atomic.Int64 // refusals that went over notes since one was logged
}

// New makes the server. It starts nothing.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Transport = cmp.Or(cfg.Transport, dial.TLS)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, egress.KeepAliveInterval)
	s := &Server{
		cfg:        cfg,
		hosts:      map[string]string{},
		seal:       newSealer(),
		calls:      make(chan struct{}, maxCalls),
		logLimiter: rate.NewLimiter(logLinesPerSecond, 10*logLinesPerSecond),
	}
	for _, p := range cfg.Public {
		h := normalHost(p)
		s.hosts[h] = "https://" + h
	}
	s.handler = s.routes()
	return s
}

// normalHost is lower-case and without the port that https means anyway.
func normalHost(h string) string { return strings.TrimSuffix(strings.ToLower(h), ":443") }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.home)
	mux.HandleFunc("GET /login", s.login)
	mux.HandleFunc("GET "+authrpc.HeadlessPath, s.headless)
	mux.HandleFunc("GET "+authrpc.CallbackPath("{connector}"), s.callback)
	mux.HandleFunc("GET "+factorPath, s.showFactor)
	mux.HandleFunc("POST "+factorPath, s.proveFactor)
	mux.HandleFunc("GET "+dial.PingPath, s.ping)
	mux.HandleFunc("GET "+dial.ConnectPath, s.connect)
	mux.Handle("GET /assets/", serveAssets())
	mux.HandleFunc("GET /favicon.ico", serveIcon)
	mux.HandleFunc(
		"GET /robots.txt",
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("User-agent: *\nDisallow: /\n")) },
	)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fault.New(fault.NotFound, "web", "there is no such page", "go to the start page"))
	})
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(s.refuseCrossSite))
	return s.guard(s.sameOrigin(cross.Handler(mux)))
}

// guard holds for every page: the headers, the body's size, and that it was asked for by a name of ours.
// Machines may come by another one, as an address inside: what they ask is no secret and is done for nobody's
// browser.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		r.RemoteAddr = s.clientAddr(r)
		if _, ok := s.hosts[normalHost(r.Host)]; !ok && r.URL.Path != dial.PingPath &&
			r.URL.Path != dial.ConnectPath {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusMisdirectedRequest)
			_, _ = w.Write([]byte("This proxy is known by another name. Use the address you were given.\n"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin compares whole origins for browsers that do not send Sec-Fetch-Site: there net/http lets http
// pass for https. The others are taken at that word alone, because under some policies of referrers they name
// their origin as null to the very page it came from.
func (s *Server) sameOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o := r.Header.Get("Origin"); r.Method == http.MethodPost && r.Header.Get("Sec-Fetch-Site") == "" &&
			o != "" &&
			o != s.hosts[normalHost(r.Host)] {
			s.refuseCrossSite(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) refuseCrossSite(w http.ResponseWriter, r *http.Request) {
	s.fail(
		w,
		r,
		fault.New(
			fault.Denied,
			"web",
			"this form was sent from another site",
			"close that page, then run: tsh login",
		),
	)
}

// The policy allows no script at all. form-action lets the factor form be answered by a redirect to tsh on
// loopback: Chromium holds redirects of forms to it. A host-source cannot name [::1], so callbacks there get
// a page with a link instead.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self' http://127.0.0.1:*; base-uri 'none'; frame-ancestors 'none'"

func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set(
		"Referrer-Policy",
		"same-origin",
	) // with no-referrer a browser names the origin of our own forms as null
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Cache-Control", "no-store")
}

// Run serves ln until ctx ends, then lets requests finish for a few seconds. Connections come with their TLS
// handshake done.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams,
			WriteByteTimeout:     unreadTimeout,
		},
		TLSConfig: &tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
		}, // switches HTTP/2 on; the handshake was mux's
		ConnContext: withConn,
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(late) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(ln)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler is all of it, for tests and for wiring.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) ping(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).
		Encode(dial.Ping{V: dial.Version, Cluster: s.cfg.Cluster, Pin: s.cfg.Pin, Version: s.cfg.Version, Time: s.cfg.Now().UTC(),
			Transport: s.cfg.Transport})
}

// callAuth calls auth for a browser, unless too many are with it already.
func callAuth[Req, Res any](
	ctx context.Context,
	s *Server,
	r authrpc.Route[Req, Res],
	req Req,
) (res Res, err error) {
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	default:
		return res, fault.New(
			fault.Unavailable,
			r.Name,
			"too many people are logging in at once",
			"wait a minute, then try again",
		)
	}
	res, err = authrpc.Call(ctx, s.cfg.Auth, r, req)
	var known *fault.Error
	if errors.As(err, &known) && known.ID == "" {
		// Not auth's answer but our own client's fault: it speaks to machines and names addresses inside,
		// which are not a stranger's.
		err = fault.Wrap(
			err,
			fault.Unavailable,
			r.Name,
			"auth does not answer this proxy",
			"try again in a minute; if it stays so, tell an administrator",
		)
	}
	return res, err
}

// clientHost is where the request came from.
func clientHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}
