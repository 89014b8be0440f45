package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
)

// With the PROXY protocol the client's address is in its header. Users may come from the network of the
// balancers, so X-Forwarded-For is ignored.
func TestWithTheProxyProtocolXForwardedForIsIgnored(t *testing.T) {
	t.Parallel()
	running := startProxy(t, time.Second, func(c *Config) {
		c.Balancers, c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true
	})
	from := ""
	begin := func(r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
		from = r.From.String()
		return authrpc.BeginLoginResponse{}, nil
	}
	clustertest.Answer(running.Cluster, authrpc.BeginLogin, begin)
	browser := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				if err == nil {
					_, err = fmt.Fprintf(conn, "PROXY TCP4 127.0.0.9 127.0.0.1 40000 443\r\n")
				}
				return conn, err
			},
		},
	}
	const login = "/login?challenge=abc&callback=http%3A%2F%2F127.0.0.1%3A40000%2Fcallback&state=xyz"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+running.addr+login, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Forwarded-For", "198.51.100.1")
	resp, err := browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if from != "127.0.0.9" {
		t.Errorf("got the browser at %q, want 127.0.0.9", from)
	}
	if err := running.stop(); err != nil {
		t.Error(err)
	}
}
