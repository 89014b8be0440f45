// Package loopback answers: how does the result of a login in the browser get back to tsh?
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

// Listener receives the callback of one login: a request of the browser with the state of this login and with
// a one-time code or an error. It refuses all other requests, and further callbacks.
type Listener struct {
	listener net.Listener
	state    string              // a secret that only tsh and the proxy's login page know
	result   chan callbackResult // has room for one result: that of the first callback
}

// callbackResult is the answer of the browser: a one-time code or an error.
type callbackResult struct {
	code string
	err  error
}

// Listen listens on a free port of 127.0.0.1. It does not use the name localhost, which may resolve to an
// address on which another user listens (RFC 8252 section 8.3). state must be text that nobody can guess,
// because whoever knows it can send a callback. The caller must call Wait, which closes the listener.
func Listen(state string) (*Listener, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Listener{listener: l, state: state, result: make(chan callbackResult, 1)}, nil
}

// URL returns the address to which the login page must send the browser.
func (l *Listener) URL() string { return "http://" + l.listener.Addr().String() + callbackPath }

// Wait serves requests until the callback arrives or ctx ends, and then closes the listener. It returns the
// one-time code of the callback. It returns a Denied fault if the callback reports an error, an Invalid fault
// if it has no code, and the cause of ctx if that ends first. Before it returns, the browser has
// shutdownTimeout to fetch the result page.
func (l *Listener) Wait(ctx context.Context) (string, error) {
	srv := &http.Server{
		Handler:        l,
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   10 * time.Second,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	served := make(chan error, 1) // gets the error of Serve when it returns
	go func() { served <- srv.Serve(l.listener) }()
	defer func() {
		shutdownCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if srv.Shutdown(shutdownCtx) != nil {
			_ = srv.Close()
		}
		<-served
	}()
	select {
	case result := <-l.result:
		return result.code, result.err
	case err := <-served:
		served <- err // the deferred function receives it again
		return "", fmt.Errorf("listen on loopback: %w", err)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ServeHTTP accepts the callback, hands its result to Wait and answers with the result page. Any web page in
// the user's browser, and any program on this machine, can send requests here. So ServeHTTP refuses a request
// with another path or host name, without the right state, or after the first callback; such a request does
// not end the login.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	const contentPolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
	header.Set("Content-Security-Policy", contentPolicy)
	header.Set("Referrer-Policy", "no-referrer") // the address of this page has the code
	header.Set("X-Content-Type-Options", "nosniff")
	query := r.URL.Query()
	// A web page whose host name an attacker points to 127.0.0.1 sends that name as Host.
	isCallback := r.URL.Path == callbackPath && r.Host == l.listener.Addr().String()
	// Compared in constant time, so that the state cannot be guessed byte by byte.
	hasState := subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(l.state)) == 1
	switch {
	case !isCallback:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet:
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	case !hasState:
		writeResultPage(w, r, http.StatusForbidden, pagesWrongState)
		return
	}
	result := parseCallback(query.Get("code"), query.Get("error"))
	select {
	case l.result <- result:
	default: // the first callback has already arrived
		writeResultPage(w, r, http.StatusConflict, pagesAnswered)
		return
	}
	if result.err != nil {
		writeResultPage(w, r, http.StatusOK, pagesFailed)
		return
	}
	writeResultPage(w, r, http.StatusOK, pagesDone)
}

// parseCallback returns the result of a callback with these parameters. code is the one-time code; failure is
// the error that the login page reports instead, or empty. A failure is a Denied fault, and a missing code,
// or one of more than maxCode bytes, an Invalid fault.
func parseCallback(code, failure string) callbackResult {
	switch {
	case failure != "":
		return callbackResult{
			err: loginRefusedInBrowser.New("", fault.Args{"why": terminal.Clean(failure)}),
		}
	case code == "" || len(code) > maxCode:
		return callbackResult{
			err: loginCodeMissing.Wrap(errors.New("no code"), ""),
		}
	}
	return callbackResult{code: code}
}
