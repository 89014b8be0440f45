package oidc

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// callTimeout bounds one request to a provider, its body included.
	callTimeout = 10 * time.Second
	// maxBody bounds any answer of a provider: discovery documents and key sets have a few kilobytes.
	maxBody = 1 << 20
	// maxHeader bounds the header of an answer.
	maxHeader = 64 << 10
)

// newClient makes a client that follows no redirect: an endpoint is where the discovery document says it is,
// and nowhere else.
func newClient(via http.RoundTripper) *http.Client {
	if via == nil {
		via = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    5 * time.Second,
			ResponseHeaderTimeout:  callTimeout,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        time.Minute,
		}
	}
	return &http.Client{
		Transport:     limitedTransport{via},
		Timeout:       callTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// limitedTransport ends bodies that are too large with an error, for every library that reads one whole.
type limitedTransport struct{ base http.RoundTripper }

func (c limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxBody}
	return resp, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is larger than %d bytes", maxBody)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
