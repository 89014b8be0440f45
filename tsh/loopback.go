package tsh

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
)

const (
	callbackPath = "/callback"
	maxCode      = 1 << 10 // bytes
	// shutdownTimeout is how long the browser has to fetch the closing page once the code is here.
	shutdownTimeout = 2 * time.Second
)

// loopback hears the browser's answer: one request with the code and our state, and it is done.
type loopback struct {
	listener net.Listener
	state    string
	result   chan callbackResult
}

type callbackResult struct {
	code string
	err  error
}

func newLoopback() (*loopback, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &loopback{listener: l, state: secret(), result: make(chan callbackResult, 1)}, nil
}

func (l *loopback) url() string { return "http://" + l.listener.Addr().String() + callbackPath }

// wait serves until the code comes or ctx ends, then shuts the listener down.
func (l *loopback) wait(ctx context.Context) (string, error) {
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
	case a := <-l.result:
		return a.code, a.err
	case err := <-served:
		served <- err
		return "", fmt.Errorf("listen on loopback: %w", err)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ServeHTTP takes the one callback. Anything without our state is refused and changes nothing: other pages
// can reach loopback too.
func (l *loopback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	a := parseCallback(q.Get("code"), q.Get("error"))
	select {
	case l.result <- a:
	default:
		writeResultPage(w, r, http.StatusConflict, pagesAnswered)
		return
	}
	if a.err != nil {
		writeResultPage(w, r, http.StatusOK, pagesFailed)
		return
	}
	writeResultPage(w, r, http.StatusOK, pagesDone)
}

func parseCallback(code, failed string) callbackResult {
	switch {
	case failed != "":
		return callbackResult{
			err: fault.New(
				fault.Denied,
				"",
				"the login was refused in the browser: "+clean(failed),
				"run the command again, or ask an administrator",
			),
		}
	case code == "" || len(code) > maxCode:
		return callbackResult{
			err: fault.Wrap(
				errors.New("no code"),
				fault.Invalid,
				"",
				"the browser came back without a login code",
				"run the command again",
			),
		}
	}
	return callbackResult{code: code}
}
