// Package web answers: what does a browser see?
//
// It serves the pages of a login (design section 4) and a start page, from html/template and one style sheet,
// without any script. It makes no decisions: each step asks the auth service. What a login needs between its
// steps is in one cookie, which the auth service has sealed: any proxy can serve the next page. The package
// stores nothing.
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
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limitedlog"
)

// Limits for what anybody can send.
const (
	maxBodyBytes   = 16 << 10
	maxHeaderBytes = 16 << 10
	maxStreams     = 32 // at the same time on one HTTP/2 connection
	headerTimeout  = 10 * time.Second
	readTimeout    = 30 * time.Second
	writeTimeout   = time.Minute
	idleTimeout    = time.Minute
	// unreadTimeout closes an HTTP/2 connection whose client does not read. The other timeouts do not cover
	// answers to pings, which the server sends outside of any request.
	unreadTimeout = 10 * time.Second
	// stopTimeout is how long requests may go on after a stop.
	stopTimeout = 5 * time.Second
	// maxCalls is how many calls to the auth service there may be at the same time.
	maxCalls = 64
	// Limits for log lines about refusals: a burst, and then so many in a second.
	logLinesPerSecond = 10
	logBurst          = 10 * logLinesPerSecond
)

// Config says what the pages need. A field is required unless its comment says what the zero value means.
type Config struct {
	Auth *authrpc.Client
	// Public are the addresses that users type, host or host:port, the preferred one first. Pages are
	// served under no other Host header.
	Public  []string
	Cluster string
	Pin     identity.Pin
	// Version is this release, for the ping document.
	Version string
	// Transport is what the ping document tells tsh and machines. Empty means TLS.
	Transport dial.Transport
	// Connect takes over the byte stream of a WebSocket. outer is the connection of the WebSocket. Nil:
	// WebSockets are refused.
	Connect func(outer, stream net.Conn)
	// KeepAlive is how long a WebSocket may be silent. Zero means egress.KeepAliveInterval.
	KeepAlive time.Duration
	// Balancers are the networks from which X-Forwarded-For is believed. Empty: it is ignored.
	Balancers []netip.Prefix
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Server serves the pages. Its methods may be called by several goroutines at once.
type Server struct {
	cfg     Config
	origins map[string]string // by Host header, as normalHost gives it
	handler http.Handler
	calls   chan struct{}      // holds one token for each call to the auth service in progress
	log     *limitedlog.Logger // for refusals, which anybody can cause
}

// New makes the server. It starts nothing.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Transport = cmp.Or(cfg.Transport, dial.TLS)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, egress.KeepAliveInterval)
	s := &Server{
		cfg:     cfg,
		origins: map[string]string{},
		calls:   make(chan struct{}, maxCalls),
		log:     limitedlog.New(cfg.Log, time.Second/logLinesPerSecond, logBurst, nil),
	}
	for _, addr := range cfg.Public {
		host := normalHost(addr)
		s.origins[host] = "https://" + host
	}
	s.handler = s.routes()
	return s
}

// normalHost makes host names comparable: lower case, and without the default port of https.
func normalHost(h string) string { return strings.TrimSuffix(strings.ToLower(h), ":443") }

// routes returns the handler of all pages. Each request passes guard, then the two checks for forms from
// other sites, then the page.
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
	mux.HandleFunc("GET /robots.txt", serveRobots)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, pageUnknown.New("web"))
	})
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(s.refuseCrossSite))
	return s.guard(s.sameOrigin(crossOrigin.Handler(mux)))
}

// unknownHostText answers a request with a Host header that is none of Config.Public.
const unknownHostText = "This proxy does not serve this host name. Use the address that you were given.\n"

// guard is in front of every page. It sets the headers of the answer, limits the request's body, and sets
// RemoteAddr to the client's address, also behind a balancer. It refuses requests with an unknown Host
// header, so that no other name can be pointed at these pages (DNS rebinding). The two paths that machines
// use are exempt: machines may know the proxy by an internal name, and what they get is neither secret nor
// for a browser.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		r.RemoteAddr = s.clientAddr(r)
		_, knownHost := s.origins[normalHost(r.Host)]
		forMachines := r.URL.Path == dial.PingPath || r.URL.Path == dial.ConnectPath
		if !knownHost && !forMachines {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusMisdirectedRequest)
			_, _ = w.Write([]byte(unknownHostText))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses forms from other origins if the browser is too old to send Sec-Fetch-Site. For such a
// browser net/http compares only the host of Origin, so a page under http:// could send a form to us; here
// the whole origin is compared. For browsers that send Sec-Fetch-Site, the check of net/http is sufficient,
// and Origin must not be compared: with some referrer policies they send "Origin: null" from our own pages.
func (s *Server) sameOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		oldBrowser := r.Header.Get("Sec-Fetch-Site") == ""
		foreign := origin != "" && origin != s.origins[normalHost(r.Host)]
		if r.Method == http.MethodPost && oldBrowser && foreign {
			s.refuseCrossSite(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) refuseCrossSite(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, formOfOtherSite.New("web"))
}

// contentSecurityPolicy allows no scripts. form-action names the loopback address of tsh, because Chromium
// applies it also to the redirect that answers a form. It cannot name [::1]: a login that returns there
// ends on a page with a link.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; img-src 'self' data:; " +
	"form-action 'self' http://127.0.0.1:*; base-uri 'none'; frame-ancestors 'none'"

// setHeaders sets the headers that every answer has.
func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// With no-referrer, browsers would send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Cache-Control", "no-store")
}

// Run serves the connections of ln until ctx ends. Then open requests may go on for stopTimeout. The
// connections of ln have passed the TLS handshake already. Run returns nil after a stop, and otherwise the
// error of ln. It waits for the goroutine that stops the server.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
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
		// TLSConfig only enables HTTP/2 here: mux has done the handshake.
		TLSConfig:   &tls.Config{NextProtos: []string{"h2", "http/1.1"}},
		ConnContext: withConn,
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// ctx has ended, so the stop has a context of its own.
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(stopCtx) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(listener)
	if !stop() { // the goroutine has been started
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler serves every page, for tests.
func (s *Server) Handler() http.Handler { return s.handler }

// ping answers with the ping document, which tells tsh and machines how to connect: the cluster, its pin, the
// transport, and the time, by which they notice a wrong clock.
func (s *Server) ping(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(dial.Ping{
		V:         dial.Version,
		Cluster:   s.cfg.Cluster,
		Pin:       s.cfg.Pin,
		Version:   s.cfg.Version,
		Time:      s.cfg.Now().UTC(),
		Transport: s.cfg.Transport,
	})
}

// callAuth calls a route of the auth service for a browser, and returns its response or its fault. When
// maxCalls calls are in progress, it returns a fault of kind Unavailable at once. The texts of all its faults
// may be shown to strangers.
func callAuth[Req, Res any](
	ctx context.Context, s *Server, r authrpc.Route[Req, Res], req Req,
) (res Res, err error) {
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	default:
		return res, usersTooMany.New(r.Name)
	}
	res, err = authrpc.Call(ctx, s.cfg.Auth, r, req)
	var known *fault.Error
	if errors.As(err, &known) && known.ID == "" {
		// The fault is from our own client, not from the auth service. It names internal addresses, which
		// strangers must not see.
		err = authSilent.Wrap(err, r.Name)
	}
	return res, err
}
