package auth

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// malformedBodies are what no client of ours sends.
var malformedBodies = map[string]string{
	"nothing": "", "null": "null", "a list": "[]", "a word": `"x"`, "a number": "1e999", "half an object": `{"a":`, "garbage": "\x00\xff\xfe", "two keys": `{"kind":1,"kind":{}}`,
	"deep lists": strings.Repeat(
		"[",
		20000,
	), "deep objects": strings.Repeat(`{"a":`, 20000), "deep specs": `{"resource":{"kind":"role","version":"v1","metadata":{"name":"x"},"spec":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}}`,
	"wrong types": `{"events":{},"attached":1,"labels":[],"limit":"x","time":7,"token":{},"kind":[],"name":{},"resource":3,"code":[],"node":1}`,
	"large": `{"name":"` + strings.Repeat(
		"a",
		300<<10,
	) + `"}`, "negative": `{"limit":-1,"after":"\u0000"}`,
	"odd names": `{"kind":"users","name":"../../etc/passwd\u0000","node":"*","resource":{"kind":"machine","version":"v1","metadata":{"name":"\u202e"},"spec":null}}`,
}

// Whoever sends whatever gets a fault with a remedy, and nothing of it is a fault of ours.
func TestMalformedBodiesAreRefusedByEveryRoute(t *testing.T) {
	w := newTestServer(t)
	n, p := w.join(identity.Node, "web", nil), w.join(identity.Proxy, "edge", nil, "edge.example.org")
	who := userIdentity("example.com", "alice", "admin")
	w.user("alice", "admin")
	key := newKey(t)
	certs := map[identity.Kind]*tls.Certificate{
		authrpc.Anonymous: nil,
		identity.Node:     n.cert(),
		identity.Proxy:    p.cert(),
		identity.User:     w.sign(userRequest(who), key, w.now()),
	}
	for kind, cert := range certs {
		var show func() (*tls.Certificate, error)
		if cert != nil {
			show = func() (*tls.Certificate, error) { return cert, nil }
		}
		transport := &http.Transport{
			TLSClientConfig: identity.PinnedTLS(
				w.auth.Pin(),
				w.auth.Cluster(),
				identity.ALPNAuth,
				show,
				w.now,
				identity.Auth,
			),
		}
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport, Timeout: patience}
		for _, r := range routes() {
			if r.name == authrpc.WatchRules.Name && kind == identity.Proxy {
				continue // answers whatever is asked, for ever
			}
			for what, body := range malformedBodies {
				res, err := client.Post(
					"https://"+w.addr+"/v1/"+r.name,
					"application/json",
					strings.NewReader(body),
				)
				if err != nil {
					t.Errorf("%s with %s by %q: got %v, want an answer", r.name, what, kind, err)
					continue
				}
				said, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
				res.Body.Close()
				var f fault.Error
				if err != nil ||
					res.StatusCode != http.StatusOK &&
						(json.Unmarshal(said, &f) != nil || f.Remedy == "" || f.Kind == fault.Internal) {
					t.Errorf(
						"%s with %s by %q: got %d %.200s, %v, want a fault with a remedy that is the caller's",
						r.name,
						what,
						kind,
						res.StatusCode,
						said,
						err,
					)
				}
			}
		}
	}
	// Auth is as well as before.
	began := time.Now()
	if _, err := authrpc.Call(t.Context(), w.user("alice", "admin"), authrpc.WhoAmI, authrpc.WhoAmIRequest{}); err != nil ||
		time.Since(began) > time.Second {
		t.Errorf("afterwards: got %v after %s", err, time.Since(began))
	}
}

// Another method, another path and another protocol lead nowhere.
func TestOnlyPostsToKnownPathsAreServed(t *testing.T) {
	w := newTestServer(t)
	transport := &http.Transport{
		TLSClientConfig: identity.PinnedTLS(
			w.auth.Pin(),
			w.auth.Cluster(),
			identity.ALPNAuth,
			nil,
			w.now,
			identity.Auth,
		),
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: patience}
	for _, ask := range []struct{ method, path string }{
		{"GET", "/v1/join"}, {"PUT", "/v1/join"}, {"POST", "/"}, {"POST", "/v1/"}, {"POST", "/v1/join/"}, {"POST", "/v1/../v1/whoami"}, {"POST", "/v2/join"},
		{"GET", "/debug/pprof/"}, {"GET", "/metrics"}, {"OPTIONS", "*"}, {"TRACE", "/v1/join"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), ask.method, "https://"+w.addr, nil)
		w.must(err)
		r.URL.Opaque = "//" + w.addr + ask.path
		res, err := client.Do(r)
		if err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode < 300 {
			t.Errorf("%s %s: got %d, want it refused", ask.method, ask.path, res.StatusCode)
		}
	}
}
