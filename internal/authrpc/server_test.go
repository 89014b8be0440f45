package authrpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
)

// serve answers one request for a route whose handler returns Req, as a call of c, and returns the status,
// the fault (if it was refused), and the log.
func serve[Req, Res any](
	t *testing.T, r authrpc.Route[Req, Res], c authrpc.Caller, body string,
) (status int, refusal *fault.Error, log string) {
	t.Helper()
	var out bytes.Buffer
	server := authrpc.NewServer(
		func(*http.Request) (authrpc.Caller, error) { return c, nil },
		slog.New(slog.NewTextHandler(&out, nil)),
	)
	authrpc.Handle(
		server,
		r,
		func(context.Context, authrpc.Caller, Req) (res Res, err error) { return res, nil },
	)
	w := httptest.NewRecorder()
	server.ServeHTTP(w, httptest.NewRequest(http.MethodPost, r.Path(), strings.NewReader(body)))
	if w.Code != http.StatusOK {
		refusal = fault.Decode(w.Body.Bytes())
	}
	return w.Code, refusal, out.String()
}

var kinds = []identity.Kind{
	authrpc.Anonymous, identity.User, identity.Node, identity.Proxy, identity.Auth, "other",
}

// A route for users serves users and refuses every other kind, each with its own fault. A route that lists no
// callers serves nobody.
func TestOnlyTheCallersOfARouteAreServed(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		status, refusal, _ := serve(t, authrpc.WhoAmI, caller(kind), "{}")
		switch {
		case kind == identity.User:
			if status != http.StatusOK {
				t.Errorf("%s: got %d, %v, want it served", kind, status, refusal)
			}
		case kind == authrpc.Anonymous:
			if status != http.StatusUnauthorized || refusal.Kind != fault.Unauthenticated {
				t.Errorf("anonymous: got %d, %v, want 401", status, refusal)
			}
		case status != http.StatusForbidden || refusal.Kind != fault.Denied || refusal.Remedy == "":
			t.Errorf("%s: got %d, %v, want 403 with a remedy", kind, status, refusal)
		}
		// A route whose author forgot the callers serves nobody.
		closed := authrpc.Route[struct{}, struct{}]{Name: "closed"}
		if status, _, _ := serve(t, closed, caller(kind), "{}"); status == http.StatusOK {
			t.Errorf("%s: got a route without callers served", kind)
		}
	}
}

func TestAnExpiredCertificateMayOnlyRenew(t *testing.T) {
	t.Parallel()
	node := caller(identity.Node)
	node.Expired = true
	if status, refusal, _ := serve(t, authrpc.GetRules, node, "{}"); status != http.StatusGone ||
		refusal.Kind != fault.Expired || refusal.Remedy == "" {
		t.Errorf("rules/get: got %d, %v, want 410 with a remedy", status, refusal)
	}
	if status, refusal, _ := serve(t, authrpc.Renew, node, "{}"); status != http.StatusOK {
		t.Errorf("renew: got %d, %v, want it served", status, refusal)
	}
}

// A body of exactly the limit is read, and one byte more is refused: for routes with and without a limit of
// their own, and for anonymous callers, whose limit no route can raise.
func TestRequestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	body := func(n int) string { return `{"token":"` + strings.Repeat("x", n-12) + `"}` } // of n bytes
	large := authrpc.Route[authrpc.JoinRequest, struct{}]{
		Name: "large", Callers: kinds, MaxBody: 2 * authrpc.MaxBodyBytes,
	}
	usual := authrpc.Route[authrpc.JoinRequest, struct{}]{Name: "usual", Callers: kinds}
	for _, tt := range []struct {
		route authrpc.Route[authrpc.JoinRequest, struct{}]
		kind  identity.Kind
		max   int
	}{
		{usual, authrpc.Anonymous, authrpc.MaxAnonymousBody},
		{usual, identity.User, authrpc.MaxBodyBytes},
		{large, authrpc.Anonymous, authrpc.MaxAnonymousBody},
		{large, identity.Proxy, 2 * authrpc.MaxBodyBytes},
	} {
		name := fmt.Sprintf("%s for %q", tt.route.Name, tt.kind)
		if status, refusal, _ := serve(t, tt.route, caller(tt.kind), body(tt.max)); status != http.StatusOK {
			t.Errorf("%s: got %d, %v for %d bytes, want them read", name, status, refusal, tt.max)
		}
		status, refusal, _ := serve(t, tt.route, caller(tt.kind), body(tt.max+1))
		if status != http.StatusBadRequest || !strings.Contains(refusal.Msg, "too large") {
			t.Errorf("%s: got %d, %v for a byte more, want it refused", name, status, refusal)
		}
	}
}

func TestRequestBodies(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{
		"":                         http.StatusOK, // a request without fields
		`{}`:                       http.StatusOK,
		`{"name":"web-1"}`:         http.StatusOK,
		`{"of_a_newer_tsh":1}`:     http.StatusOK,
		`{`:                        http.StatusBadRequest,
		`{"name":7}`:               http.StatusBadRequest,
		`<html>`:                   http.StatusBadRequest,
		`{"name":"\u0000` + "\x00": http.StatusBadRequest,
	} {
		status, refusal, _ := serve(t, authrpc.ListNodes, caller(identity.User), body)
		if status != want ||
			status != http.StatusOK && (refusal.Kind != fault.Invalid || refusal.Remedy == "") {
			t.Errorf("%q: got %d, %v, want %d", body, status, refusal, want)
		}
	}
}

// Another method or path than those of a registered route gets an HTTP error.
func TestOnlyPOSTOfAKnownPathIsServed(t *testing.T) {
	t.Parallel()
	server := authrpc.NewServer(
		func(*http.Request) (authrpc.Caller, error) { return caller(identity.User), nil },
		slog.New(slog.DiscardHandler),
	)
	authrpc.Handle(server, authrpc.WhoAmI,
		func(context.Context, authrpc.Caller, authrpc.WhoAmIRequest) (res authrpc.WhoAmIResponse, err error) {
			return res, nil
		})
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{http.MethodPost, "/v1/whoami", http.StatusOK},
		{http.MethodGet, "/v1/whoami", http.StatusMethodNotAllowed},
		{http.MethodPost, "/v1/whoami/", http.StatusNotFound},
		{http.MethodPost, "/whoami", http.StatusNotFound},
		{http.MethodPost, "/v1/nodes/list", http.StatusNotFound}, // not given to Handle
	} {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader("{}")))
		if w.Code != tt.want {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, w.Code, tt.want)
		}
	}
}

// What is wrong inside the auth service stays in its log, and the id in the answer finds the line.
func TestTheCauseOfAnErrorIsLoggedAndNotSent(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	server := authrpc.NewServer(
		func(*http.Request) (c authrpc.Caller, err error) { return c, errors.New("the disk of auth-1") },
		slog.New(slog.NewTextHandler(&log, nil)),
	)
	authrpc.Handle(server, authrpc.WhoAmI,
		func(context.Context, authrpc.Caller, authrpc.WhoAmIRequest) (res authrpc.WhoAmIResponse, err error) {
			t.Error("got the handler called for a caller who is not known")
			return res, nil
		})
	w := httptest.NewRecorder()
	server.ServeHTTP(w, httptest.NewRequest(http.MethodPost, authrpc.WhoAmI.Path(), strings.NewReader("{}")))
	var sent fault.Error
	if err := json.Unmarshal(w.Body.Bytes(), &sent); err != nil || w.Code != 500 ||
		sent.Kind != fault.Internal {
		t.Fatalf("got %d %s, want an internal fault", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "disk") || sent.ID == "" {
		t.Errorf("got %s, want an id and no cause", w.Body)
	}
	line := log.String()
	if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "the disk of auth-1") ||
		!strings.Contains(line, "id="+sent.ID) {
		t.Errorf("got log %q, want the cause under the id %s", line, sent.ID)
	}
}

// Anonymous clients cannot fill the log with refusals, whether they call auth themselves or make a proxy call
// it. Users are known, and each refusal of theirs is written.
func TestAnonymousRefusalsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	for kind, all := range map[identity.Kind]bool{
		authrpc.Anonymous: false,
		identity.Proxy:    false,
		identity.User:     true,
	} {
		var log bytes.Buffer
		c := caller(kind)
		c.Proxy = "edge"
		server := authrpc.NewServer(
			func(*http.Request) (authrpc.Caller, error) { return c, nil },
			slog.New(slog.NewTextHandler(&log, nil)),
		)
		// A proxy is refused before the handler is called: it may not call this route.
		authrpc.Handle(server, authrpc.RedeemLogin, func(
			context.Context, authrpc.Caller, authrpc.RedeemLoginRequest,
		) (res authrpc.RedeemLoginResponse, err error) {
			return res, faulttest.New(fault.Denied, "test", "no", "stop")
		})
		const calls = 1000
		for range calls {
			r := httptest.NewRequest(http.MethodPost, authrpc.RedeemLogin.Path(), strings.NewReader("{}"))
			server.ServeHTTP(httptest.NewRecorder(), r)
		}
		if !strings.Contains(log.String(), "from=192.0.2.7:40022 proxy=edge") {
			t.Errorf("%s: got %.200q, want the client's address and the proxy", kind, log.String())
		}
		if lines := strings.Count(log.String(), "\n"); lines == 0 || (lines == calls) != all {
			t.Errorf("%s: got %d lines for %d refusals, want all of them: %v", kind, lines, calls, all)
		}
	}
}
