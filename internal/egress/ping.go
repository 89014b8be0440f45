package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
)

// Bounds of fetching a ping document.
const (
	pingTimeout  = 5 * time.Second
	maxHeadBytes = 16 << 10
)

// notPingError says that an HTTPS server answered without a ping document.
type notPingError struct{ err error }

func (e *notPingError) Error() string { return "no ping document: " + e.err.Error() }

func (e *notPingError) Unwrap() error { return e.err }

// ping fetches the ping document of the proxy at addr. The error is a *notPingError if a server answered with
// anything else, and otherwise says why the server could not be reached.
//
// The server's certificate is not verified: a first login trusts only a pin, which the TLS inside verifies.
// So anybody on the way can change the document. The caller may use its transport and nothing else, because a
// wrong transport only makes connections fail.
func (d *Dialer) ping(ctx context.Context, addr string) (p dial.Ping, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return p, err
	}
	client := singleConnClient(conn, addr)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+dial.PingPath, nil)
	if err != nil {
		conn.Close()
		return p, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		conn.Close()
		return p, &notPingError{err}
	}
	defer resp.Body.Close()
	if p, err = dial.ReadPing(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return p, &notPingError{errors.Join(errors.New(resp.Status), err)}
	}
	return p, nil
}

// singleConnClient returns an HTTP/1.1 client that makes one request, over conn and inside TLS to addr. It
// does not verify the server's certificate: all that this client opens is trusted no more than the network.
// It follows no redirects, and refuses a second connection.
func singleConnClient(conn net.Conn, addr string) *http.Client {
	unverified := &tls.Config{
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
	}
	used := false
	return &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				if used {
					return nil, errors.New("the connection has ended")
				}
				used = true
				return handshake(ctx, conn, addr, unverified)
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeadBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
