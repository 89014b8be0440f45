package tsh

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

// Bounds for the ping document.
const (
	pingTime = 15 * time.Second
)

// cluster is the cluster that a login is for. The pin identifies it. name is identity.AnyCluster if it is not
// known, as with --pin.
type cluster struct {
	pin       identity.Pin
	name      string
	transport dial.Transport // how the proxy is reached; empty: not known yet
}

// contact decides which cluster the proxy at addr must belong to (see choosePin), verifies by a TLS handshake
// with the auth service behind the proxy that it does, and returns the cluster. It is called before the user
// is sent to a browser, so that nobody types a password for the wrong cluster. Its errors are those of
// choosePin and tlsFault.
func (a *app) contact(
	ctx context.Context,
	home profile.Home,
	addr string,
	opts loginOptions,
) (cluster, error) {
	target, err := a.choosePin(ctx, home, addr, opts)
	if err != nil {
		return cluster{}, err
	}
	if err := a.learnTransport(ctx, addr, &target); err != nil {
		return cluster{}, err
	}
	// The handshake verifies that the proxy leads to the auth service of this cluster.
	conn, err := a.dialTLS(ctx, addr, target.authTLS(a.Now))
	if err != nil {
		return cluster{}, err
	}
	return target, conn.Close()
}

// authTLS is the TLS configuration for calls of the auth service without a client certificate.
func (at cluster) authTLS(now func() time.Time) *tls.Config {
	return identity.PinnedTLS(at.pin, at.name, identity.ALPNAuth, nil, now, identity.Auth)
}

// learnTransport makes the dialer use target.transport for the proxy at addr. If target.transport is empty,
// it first reads the transport from the proxy's ping document. It does not verify the web certificate: a
// wrong transport can only make the connection fail, and nothing else of the document is used.
func (a *app) learnTransport(ctx context.Context, addr string, target *cluster) error {
	if a.dialer.err != nil {
		return a.dialer.err
	}
	if target.transport != "" {
		a.dialer.egress.SetTransport(addr, target.transport)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	transport, err := a.dialer.egress.LearnTransport(ctx, addr)
	if err != nil {
		return tlsFault(addr, err)
	}
	target.transport = transport
	return nil
}

// choosePin decides which cluster the user means, and returns it with its pin. In this order it uses:
//
//  1. --pin.
//  2. The pin kept from an earlier login, at this proxy or at the cluster of --cluster. With --ca-file the
//     proxy's ping document must name the same pin, unless the file contains the root certificate of the
//     cluster in the ping document: such a file proves as much as --pin, so the new pin replaces the kept
//     one.
//  3. The pin in the ping document, which is trusted because the proxy's web certificate is verified. If
//     there is a profile of the cluster that the document names, its pin must be the same.
//
// It returns an Invalid fault for a pin or a profile that cannot be read and for a wrong clock, a Denied
// fault if the ping document names another pin than the kept one, and the errors of ping.
func (a *app) choosePin(
	ctx context.Context,
	home profile.Home,
	addr string,
	opts loginOptions,
) (cluster, error) {
	if opts.pin != "" {
		pin, err := identity.ParsePin(opts.pin)
		if err != nil {
			return cluster{}, pinMalformed.Wrap(err, "", fault.Args{"why": err.Error()})
		}
		return cluster{pin: pin, name: cmp.Or(a.cluster, identity.AnyCluster)}, nil
	}
	kept, err := a.keptProfile(home, addr)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return cluster{}, err
	}
	isKept := err == nil
	if isKept && opts.caFile == "" { // the pin is enough: no web certificate is consulted
		return cluster{pin: kept.Pin, name: kept.Cluster}, nil
	}
	ping, err := a.ping(ctx, addr, opts.caFile)
	if err != nil {
		return cluster{}, err
	}
	if !ping.Time.IsZero() { // a proxy may leave the time out; verify checks the clock again after the login
		if err := checkClock(ping.Time, a.Now()); err != nil {
			return cluster{}, err
		}
	}
	if a.cluster != "" && a.cluster != ping.Cluster {
		return cluster{}, clusterNotNamed.New("", fault.Args{
			"proxy":   addr,
			"cluster": ping.Cluster,
			"wanted":  a.cluster,
		})
	}
	if !isKept { // the proxy may be a new one of a known cluster, or only claim to be
		kept, err = home.ReadInfo(ping.Cluster)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return cluster{}, err
		}
		isKept = err == nil
	}
	if isKept && kept.Pin != ping.Pin && !containsRoot(opts.caFile, ping.Pin) {
		return cluster{}, rootChangedFault(addr, kept.Pin, ping.Pin)
	}
	return cluster{pin: ping.Pin, name: ping.Cluster, transport: ping.Transport}, nil
}

// keptProfile returns the profile of the cluster to which the proxy at addr must belong, because --cluster
// says so or because the user logged in there before. It returns a NotFound fault if there is none.
func (a *app) keptProfile(home profile.Home, addr string) (profile.Info, error) {
	if a.cluster != "" {
		return home.ReadInfo(a.cluster)
	}
	return home.FindProxy(addr)
}

// containsRoot reports whether the file contains the certificate that pin identifies.
func containsRoot(file string, pin identity.Pin) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && identity.PinOf(c) == pin {
			return true
		}
	}
	return false
}

// rootChangedFault is the error of a proxy whose ping document names another root than the kept pin.
func rootChangedFault(addr string, kept, got identity.Pin) error {
	return clusterChanged.New("", fault.Args{
		"proxy": addr,
		"kept":  kept,
		"shown": got,
	})
}

// ping fetches the ping document over HTTPS. The proxy's web certificate must be signed by an authority in
// caFile or, if caFile is empty, by one of the system's authorities. Its errors are those of rootsFrom,
// pingFault and readPing.
func (a *app) ping(ctx context.Context, addr, caFile string) (dial.Ping, error) {
	roots, err := rootsFrom(caFile)
	if err != nil {
		return dial.Ping{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: a.Now},
			DialContext:     a.dialer.DialContext,
		},
		// A redirect would lead to a server that the user did not name.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, origin(addr)+dial.PingPath, nil)
	if err != nil {
		return dial.Ping{}, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return dial.Ping{}, a.pingFault(ctx, addr, err)
	}
	defer resp.Body.Close()
	return readPing(addr, resp)
}

// readPing decodes and checks the ping document. For any other answer it returns an Invalid fault: the server
// is not a Threshold proxy, or one that is too new for tsh.
func readPing(addr string, resp *http.Response) (dial.Ping, error) {
	ping, err := dial.ReadPing(resp.Body)
	if fault.Is(err, fault.Invalid) { // of a newer release
		return dial.Ping{}, err
	}
	if err == nil {
		err = identity.CheckCluster(ping.Cluster)
	}
	if resp.StatusCode != http.StatusOK || err != nil || ping.Pin == (identity.Pin{}) {
		err = errors.Join(errors.New(resp.Status), err)
		return dial.Ping{}, proxyNotThreshold.Wrap(err, "", fault.Args{"proxy": addr})
	}
	return ping, nil
}

// rootsFrom returns the authorities that may have signed a proxy's web certificate: those in caFile or, if
// caFile is empty, nil, which net/http takes for the system's authorities. It returns an Invalid fault for a
// file that cannot be read or has no certificate.
func rootsFrom(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	b, err := os.ReadFile(caFile)
	if err != nil {
		return nil, caFileUnreadable.Wrap(err, "", fault.Args{"why": err.Error()})
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, caFileEmpty.New("", fault.Args{"file": caFile})
	}
	return roots, nil
}

// pingFault returns the fault for err, the error of an HTTPS request for the ping document: Denied if the web
// certificate is of an unknown authority or for another name, Expired if it is not valid now, and Unavailable
// if there is no connection. A fault, which an HTTP proxy on the way causes, is returned as it is. It returns
// context.Canceled if the user interrupted tsh.
func (a *app) pingFault(ctx context.Context, addr string, err error) error {
	var unknownAuthority x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var f *fault.Error
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case errors.As(err, &f):
		return f
	case errors.As(err, &unknownAuthority):
		return webCertificateUntrusted.Wrap(err, "", fault.Args{"proxy": addr})
	case errors.As(err, &wrongName):
		return webCertificateWrongName.Wrap(err, "", fault.Args{"proxy": addr})
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return webCertificateExpired.Wrap(err, "", fault.Args{
			"proxy": addr,
			"now":   a.Now().UTC().Format(time.RFC3339),
		})
	}
	return unreachableFault(addr, err)
}

// hintClock is what to do about a certificate that is expired or not valid yet.
const hintClock = "check this machine's clock; if it is right, tell an administrator"

// unreachableFault describes a proxy to which no connection could be opened.
func unreachableFault(addr string, err error) error {
	return proxyUnreachable.Wrap(err, "", fault.Args{"proxy": addr, "why": fault.DescribeNetwork(err)})
}
