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

// malformedBodies are request bodies that no client of ours sends.
var malformedBodies = map[string]string{
	"nothing":        "",
	"null":           "null",
	"a list":         "[]",
	"a word":         `"x"`,
	"a number":       "1e999",
	"half an object": `{"a":`,
	"garbage":        "\x00\xff\xfe",
	"one key twice":  `{"kind":1,"kind":{}}`,
	"deep lists":     strings.Repeat("[", 20000),
	"deep objects":   strings.Repeat(`{"a":`, 20000),
	"a deep spec": `{"resource":{"kind":"role","version":"v1","metadata":{"name":"x"},"spec":` +
		strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}}`,
	"wrong types": `{"events":{},"attached":1,"labels":[],"limit":"x","time":7,"token":{},"kind":[],` +
		`"name":{},"resource":3,"code":[],"node":1}`,
	"a large name":     `{"name":"` + strings.Repeat("a", 300<<10) + `"}`,
	"a negative limit": `{"limit":-1,"after":"\u0000"}`,
	"strange names": `{"kind":"users","name":"../../etc/passwd\u0000","node":"*",` +
		`"resource":{"kind":"node","version":"v1","metadata":{"name":"\u202e"},"spec":null}}`,
}

// httpClient posts to the API without the checks of authrpc.Client.
func (s *testServer) httpClient(cert *tls.Certificate) *http.Client {
	transport := &http.Transport{TLSClientConfig: s.clientTLS(cert)}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// Whatever a client sends, it gets a fault with a remedy that is not of kind Internal.
func TestMalformedBodiesAreRefusedByEveryRoute(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web", nil)
	p := s.join(identity.Proxy, "edge", nil, "edge.example.org")
	alice := s.user("alice", "admin")
	user := s.sign(userRequest(userIdentity("example.com", "alice", "admin")), newKey(t), s.now())
	for kind, cert := range map[identity.Kind]*tls.Certificate{
		authrpc.Anonymous: nil,
		identity.Node:     n.cert(),
		identity.Proxy:    p.cert(),
		identity.User:     user,
	} {
		client := s.httpClient(cert)
		for _, r := range routes() {
			if r.name == authrpc.WatchRules.Name && kind == identity.Proxy {
				continue // answers whatever is asked, and does not end
			}
			for name, body := range malformedBodies {
				status, answer, err := post(client, "https://"+s.addr+"/v1/"+r.name, body)
				var f fault.Error
				switch {
				case err != nil:
					t.Errorf("%s with %s by %q: got %v, want an answer", r.name, name, kind, err)
				case status == http.StatusOK:
				case json.Unmarshal(answer, &f) != nil, f.Remedy == "", f.Kind == fault.Internal:
					t.Errorf("%s with %s by %q: got %d %.200s, want a fault with a remedy, not internal",
						r.name, name, kind, status, answer)
				}
			}
		}
	}
	// Auth still answers, and fast.
	began := time.Now()
	_, err := authrpc.Call(t.Context(), alice, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if took := time.Since(began); err != nil || took > 5*time.Second {
		t.Errorf("afterwards: got %v after %s", err, took)
	}
}

func post(client *http.Client, url, body string) (status int, answer []byte, err error) {
	res, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, answer, err
}

// Other methods and paths get no successful answer.
func TestOnlyPostsToKnownPathsAreServed(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	client := s.httpClient(nil)
	for _, ask := range []struct{ method, path string }{
		{"GET", "/v1/join"},
		{"PUT", "/v1/join"},
		{"POST", "/"},
		{"POST", "/v1/"},
		{"POST", "/v1/join/"},
		{"POST", "/v1/../v1/whoami"},
		{"POST", "/v2/join"},
		{"GET", "/debug/pprof/"},
		{"GET", "/metrics"},
		{"OPTIONS", "*"},
		{"TRACE", "/v1/join"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), ask.method, "https://"+s.addr, nil)
		s.must(err)
		r.URL.Opaque = "//" + s.addr + ask.path
		res, err := client.Do(r)
		if err != nil {
			continue // no answer is a refusal, too
		}
		res.Body.Close()
		if res.StatusCode < 300 {
			t.Errorf("%s %s: got %d, want it refused", ask.method, ask.path, res.StatusCode)
		}
	}
}
