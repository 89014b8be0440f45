// Package loopback answers: what does the browser say at the end of a login?
//
// It receives the callback of the proxy's login page on 127.0.0.1 (RFC 8252 section 7.3) and shows the last
// page, in English or Korean. tsh login calls it.
package loopback

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

const (
	callbackPath = "/callback"
	maxCode      = 1 << 10 // bytes
	// shutdownTimeout is how long the browser may take to fetch the result page once the code has arrived.
	shutdownTimeout = 2 * time.Second
)

// Listener receives one answer of the browser: a request with the state of this login and a one-time code, or
// with an error. It refuses all other requests.
type Listener struct {
	listener net.Listener
	state    string              // a secret that only the proxy's login page knows
	result   chan callbackResult // has room for the one result
}

// callbackResult is the answer of the browser: a one-time code or an error.
type callbackResult struct {
	code string
	err  error
}

// Listen listens on a free port of 127.0.0.1. The name localhost is not used, because it may resolve to an
// address on which another user listens (RFC 8252 section 8.3). state must be an unguessable text. The caller
// must call Wait.
func Listen(state string) (*Listener, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Listener{listener: l, state: state, result: make(chan callbackResult, 1)}, nil
}

// URL is the address of the callback.
func (l *Listener) URL() string { return "http://" + l.listener.Addr().String() + callbackPath }

// Wait serves requests until the result arrives or ctx ends, and returns the code. Then it closes the
// listener.
func (l *Listener) Wait(ctx context.Context) (string, error) {
	srv := &http.Server{
		Handler:        l,
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   10 * time.Second,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l.listener) }()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if srv.Shutdown(closing) != nil {
			_ = srv.Close()
		}
		<-served
	}()
	select {
	case r := <-l.result:
		return r.code, r.err
	case err := <-served:
		served <- err // for the deferred function
		return "", fmt.Errorf("listen on loopback: %w", err)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ServeHTTP accepts the callback. A request without the right state is refused and changes nothing, because
// any web page can send requests to loopback.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	q := r.URL.Query()
	switch {
	case r.URL.Path != callbackPath || r.Host != l.listener.Addr().String():
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet:
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(l.state)) != 1:
		writeResultPage(w, r, http.StatusForbidden, pagesWrongState)
		return
	}
	result := parseCallback(q.Get("code"), q.Get("error"))
	select {
	case l.result <- result:
	default:
		writeResultPage(w, r, http.StatusConflict, pagesAnswered)
		return
	}
	if result.err != nil {
		writeResultPage(w, r, http.StatusOK, pagesFailed)
		return
	}
	writeResultPage(w, r, http.StatusOK, pagesDone)
}

// parseCallback reads the parameters of the callback. failure is the error that the proxy reports instead of
// a code.
func parseCallback(code, failure string) callbackResult {
	switch {
	case failure != "":
		msg := "the login was refused in the browser: " + terminal.Clean(failure)
		return callbackResult{
			err: fault.New(fault.Denied, "", msg, "run the command again, or ask an administrator"),
		}
	case code == "" || len(code) > maxCode:
		msg := "the browser returned without a login code"
		return callbackResult{
			err: fault.Wrap(errors.New("no code"), fault.Invalid, "", msg, "run the command again"),
		}
	}
	return callbackResult{code: code}
}
