package tsh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

// Bounds of a first contact.
const (
	pingTime     = 15 * time.Second
	maxPingBytes = 16 << 10
)

// cluster is whom a login is with: the pin says which, the name may still be identity.AnyCluster.
type cluster struct {
	pin       identity.Pin
	name      string
	transport dial.Transport // of the proxy; empty: not asked yet
}

// contact learns which cluster the proxy must be of and checks that it is, before a person is sent to a
// browser.
func (a *app) contact(ctx context.Context, h profile.Home, addr string, o loginOptions) (cluster, error) {
	at, err := a.choosePin(ctx, h, addr, o)
	if err != nil {
		return cluster{}, err
	}
	if err := a.learnTransport(ctx, addr, &at); err != nil {
		return cluster{}, err
	}
	conn, err := a.dialTLS(
		ctx,
		addr,
		identity.PinnedTLS(at.pin, at.name, identity.ALPNAuth, nil, a.Now, identity.Auth),
	)
	if err != nil {
		return cluster{}, err
	}
	return at, conn.Close()
}

// learnTransport finds out how the proxy wants to be spoken to. Who has a pin takes only that from the ping
// document, and so needs no certificate.
func (a *app) learnTransport(ctx context.Context, addr string, at *cluster) error {
	if a.dialer.err != nil {
		return a.dialer.err
	}
	if at.transport != "" {
		a.dialer.egress.SetTransport(addr, at.transport)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	transport, err := a.dialer.egress.LearnTransport(ctx, addr)
	if err != nil {
		return tlsFault(addr, err)
	}
	at.transport = transport
	return nil
}

// choosePin decides which cluster is meant: the pin that was given, else the one kept from an earlier login,
// which the proxy's ping must repeat, else the one that its web certificate vouches for. A --ca-file that
// holds the cluster root itself says as much as --pin, and so replaces a kept pin.
func (a *app) choosePin(ctx context.Context, h profile.Home, addr string, o loginOptions) (cluster, error) {
	if o.pin != "" {
		pin, err := identity.ParsePin(o.pin)
		return cluster{
				pin:  pin,
				name: identity.AnyCluster,
			}, fault.Wrap(
				err,
				fault.Invalid,
				"",
				fmt.Sprint(err),
				"copy the whole pin, as sha256:…",
			)
	}
	known, err := h.ReadInfo(addr)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return cluster{}, err
	}
	var kept *identity.Pin
	if err == nil {
		pin, err := identity.ParsePin(known.Pin)
		if err != nil {
			return cluster{}, fault.Wrap(
				err,
				fault.Invalid,
				"",
				"the profile is damaged: "+err.Error(),
				"give the pin: tsh login --pin sha256:…",
			)
		}
		if o.caFile == "" {
			return cluster{
				pin:  pin,
				name: known.Cluster,
			}, nil // the pin is enough: no web certificate has a say
		}
		kept = &pin
	}
	got, err := a.ping(ctx, addr, o.caFile)
	if err == nil && !got.Time.IsZero() {
		err = checkClock(got.Time, a.Now()) // before a person types anything
	}
	if err != nil {
		return cluster{}, err
	}
	if kept != nil && *kept != got.Pin && !holdsRoot(o.caFile, got.Pin) {
		return cluster{}, rootChanged(addr, *kept, got.Pin)
	}
	return cluster{got.Pin, got.Cluster, got.Transport}, nil
}

// holdsRoot reports whether the file holds the certificate that the pin names.
func holdsRoot(file string, pin identity.Pin) bool {
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

func rootChanged(addr string, kept, got identity.Pin) error {
	return fault.New(
		fault.Denied,
		"",
		fmt.Sprintf("THE CLUSTER AT %s IS NOT THE ONE YOU LOGGED IN TO BEFORE.\n  kept:  %s\n  shown: %s\n"+
			"Either it was rebuilt, or somebody stands in between.", addr, kept, got),
		"ask an administrator; only if they name the shown pin: tsh login --proxy "+addr+" --pin "+got.String(),
	)
}

// ping asks the proxy, over its public HTTPS, what it serves.
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
			DialContext:     a.dialer.dialContext,
		},
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

func readPing(addr string, resp *http.Response) (p dial.Ping, err error) {
	err = json.NewDecoder(io.LimitReader(resp.Body, maxPingBytes)).Decode(&p)
	if err == nil {
		err = identity.CheckCluster(p.Cluster)
	}
	if resp.StatusCode != http.StatusOK || err != nil || p.Pin == (identity.Pin{}) {
		return p, fault.Wrap(
			errors.Join(errors.New(resp.Status), err),
			fault.Invalid,
			"",
			addr+" answers, but is no Threshold proxy",
			"check the address",
		)
	}
	return p, nil
}

func rootsFrom(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil // the system's
	}
	b, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			"",
			"--ca-file cannot be read: "+err.Error(),
			"check the path",
		)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fault.New(
			fault.Invalid,
			"",
			"--ca-file "+caFile+" holds no certificate in PEM form",
			"give the file that the administrator named",
		)
	}
	return roots, nil
}

// pingFault says what a person should do about a first contact that failed.
func (a *app) pingFault(ctx context.Context, addr string, err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var said *fault.Error
	switch {
	case context.Cause(ctx) != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case errors.As(err, &said): // what stands on the way has its own words
		return said
	case errors.As(err, &unknown):
		return fault.Wrap(
			err,
			fault.Denied,
			"",
			"the web certificate of "+addr+" is of an authority this machine does not know",
			"ask an administrator for the cluster's pin and add --pin sha256:…, or for the authority's file and add --ca-file FILE",
		)
	case errors.As(err, &name):
		return fault.Wrap(
			err,
			fault.Denied,
			"",
			"the web certificate of "+addr+" is not for that name",
			"use the name that the administrator gave",
		)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fault.Wrap(
			err,
			fault.Expired,
			"",
			fmt.Sprintf(
				"the web certificate of %s is not valid now (this machine's clock says %s)",
				addr,
				a.Now().UTC().Format(time.RFC3339),
			),
			"check this machine's clock; if it is right, tell an administrator",
		)
	}
	return unreachable(addr, err)
}

// unreachable is a proxy that gave no connection.
func unreachable(addr string, err error) error {
	return fault.Wrap(
		err,
		fault.Unavailable,
		"",
		"the proxy "+addr+" cannot be reached: "+fault.DescribeNetwork(err),
		"check the address and the network, then try again",
	)
}
