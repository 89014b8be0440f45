package tsh

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

// loginTime is how long a person has for the browser's part.
const loginTime = 10 * time.Minute

// loginOptions are the flags of tsh login.
type loginOptions struct {
	caFile, pin, browser, connector, agent string
	headless                               bool
}

func (a *app) loginCmd() *cobra.Command {
	var o loginOptions
	c := &cobra.Command{
		Use:     "login --proxy HOST",
		Short:   "Log in with the browser; get certificates for some hours",
		GroupID: everyday,
		Args:    noArgs("name the proxy with a flag: tsh login --proxy %s"),
		Example: `  tsh login --proxy access.example.com
  tsh login --browser=none        # prints a line to open elsewhere on this machine
  tsh login --headless            # on a machine without a browser: approve in one on another`,
		RunE: func(c *cobra.Command, _ []string) error { return a.runLogin(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(
		&o.caFile,
		"ca-file",
		"",
		"`FILE` with the authority of the proxy's web certificate, for a first contact",
	)
	f.StringVar(
		&o.pin,
		"pin",
		"",
		"the cluster's `PIN` (sha256:…), from an administrator; then no web certificate is needed",
	)
	f.StringVar(&o.browser, "browser", "", "`none` prints the address instead of opening a browser")
	f.BoolVar(
		&o.headless,
		"headless",
		false,
		"approve in a browser on another machine; certificates for an hour, for this address alone",
	)
	f.StringVar(&o.connector, "connector", "", "`NAME` of the identity provider, where there are several")
	f.StringVar(
		&o.agent,
		"add-keys-to-agent",
		"auto",
		"`auto|yes|no`; auto: only if ssh-agent can forbid onward hops",
	)
	_ = c.RegisterFlagCompletionFunc(
		"add-keys-to-agent",
		cobra.FixedCompletions([]string{"auto", "yes", "no"}, cobra.ShellCompDirectiveNoFileComp),
	)
	_ = c.RegisterFlagCompletionFunc(
		"browser",
		cobra.FixedCompletions([]string{"none"}, cobra.ShellCompDirectiveNoFileComp),
	)
	return c
}

func (o loginOptions) check() error {
	if o.browser != "" && o.browser != "none" {
		return fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("--browser=%s is not known", o.browser),
			"use --browser=none, or leave it out",
		)
	}
	if o.headless && o.browser != "" {
		return fault.New(
			fault.Invalid,
			"",
			"--headless opens no browser, so --browser means nothing beside it",
			"leave one of them out",
		)
	}
	switch o.agent {
	case "auto", "yes", "no":
		return nil
	}
	return fault.New(
		fault.Invalid,
		"",
		fmt.Sprintf("--add-keys-to-agent=%s is not known", o.agent),
		"use auto, yes or no",
	)
}

func (a *app) runLogin(ctx context.Context, o loginOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	h, err := a.home()
	if err != nil {
		return err
	}
	addr, err := a.proxyAddress()
	if fault.Is(err, fault.NotFound) {
		return fault.New(
			fault.Invalid,
			"",
			"which cluster? --proxy is missing, and this is the first login",
			"run: tsh login --proxy HOST",
		)
	}
	if err != nil {
		return err
	}
	at, err := a.contact(ctx, h, addr, o)
	if err != nil {
		return err
	}
	keys, err := newKeys()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, loginTime, errLoginTimeout)
	defer cancel()
	earn := a.loginWithBrowser
	if o.headless {
		earn = a.loginHeadless
	}
	resp, err := earn(ctx, addr, at, keys, o)
	if err != nil {
		return err
	}
	p, err := verify(resp, at, keys, a.Now())
	if err != nil {
		return err
	}
	p.Proxy = addr
	if at.transport == dial.WebSocket {
		p.Transport = at.transport
	}
	old, _ := h.Load(addr) // whose keys leave the agent; a damaged one has none to name
	if err := h.Save(p); err != nil {
		return err
	}
	a.updateAgent(ctx, o.agent, old, p)
	return a.welcome(p)
}

var errLoginTimeout = fault.New(
	fault.Expired,
	"",
	"the browser's part of the login took longer than "+loginTime.String(),
	"run the command again",
)

// loginKeys is what a login is for: keys born here, which never leave, and the verifier that proves they
// began it.
type loginKeys struct {
	ssh      ed25519.PrivateKey
	x509     *ecdsa.PrivateKey
	sshPub   []byte // SSH wire format
	x509Pub  []byte // PKIX DER
	verifier string
}

func newKeys() (*loginKeys, error) {
	k := &loginKeys{verifier: secret()}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an SSH key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("make an SSH key: %w", err)
	}
	k.ssh, k.sshPub = priv, sshPub.Marshal()
	if k.x509, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make an X.509 key: %w", err)
	}
	if k.x509Pub, err = x509.MarshalPKIXPublicKey(k.x509.Public()); err != nil {
		return nil, fmt.Errorf("make an X.509 key: %w", err)
	}
	return k, nil
}

func (k *loginKeys) challenge() string { return authrpc.Challenge(k.verifier, k.sshPub, k.x509Pub) }

// reveal opens the challenge.
func (k *loginKeys) reveal() authrpc.Keys {
	return authrpc.Keys{Verifier: k.verifier, SSHKey: k.sshPub, X509Key: k.x509Pub}
}

// secret is 256 random bits as text.
func secret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// awaitBrowser sends the person to the proxy's login page and waits for the one-time code on loopback (RFC
// 8252 section 7.3).
func (a *app) awaitBrowser(
	ctx context.Context,
	addr, challenge string,
	o loginOptions,
) (code string, err error) {
	back, err := newLoopback()
	if err != nil {
		return "", fault.Wrap(
			err,
			fault.Unavailable,
			"",
			"no port on 127.0.0.1 can be opened for the browser's answer: "+err.Error(),
			"look at this machine's firewall and limits",
		)
	}
	page := loginURL(addr, challenge, back.url(), back.state, o.connector)
	if o.browser == "none" {
		fmt.Fprintln(a.Stdout, "Open: "+page)
	} else if err := openBrowser(ctx, page); err != nil {
		fmt.Fprintln(a.Stderr, "No browser could be started. Open this address on this machine:")
		fmt.Fprintln(a.Stdout, "Open: "+page)
	} else {
		fmt.Fprintln(a.Stderr, "Your browser opens. If it does not, open this address on this machine:\n  "+page)
	}
	code, err = back.wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errLoginTimeout) {
		return "", errLoginTimeout
	}
	return code, err
}

func loginURL(addr, challenge, callback, state, connector string) string {
	q := url.Values{"challenge": {challenge}, "callback": {callback}, "state": {state}}
	if connector != "" {
		q.Set("connector", connector)
	}
	return origin(addr) + "/login?" + q.Encode()
}

// origin is the proxy's web address, without the port where it is the usual one.
func origin(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port != profile.DefaultPort {
		return "https://" + addr
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "https://" + host
}

// loginWithBrowser logs in with a browser on this machine.
func (a *app) loginWithBrowser(
	ctx context.Context,
	addr string,
	at cluster,
	k *loginKeys,
	o loginOptions,
) (authrpc.RedeemLoginResponse, error) {
	code, err := a.awaitBrowser(ctx, addr, k.challenge(), o)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	return a.redeem(ctx, addr, at, code, k)
}

// redeem turns the code into certificates, end to end at auth: the proxy passes the TLS connection through
// unopened.
func (a *app) redeem(
	ctx context.Context,
	addr string,
	at cluster,
	code string,
	k *loginKeys,
) (authrpc.RedeemLoginResponse, error) {
	c := authrpc.NewClientWithDialer(
		a.dialer,
		addr,
		identity.PinnedTLS(at.pin, at.name, identity.ALPNAuth, nil, a.Now, identity.Auth),
	)
	defer c.Close()
	return authrpc.Call(ctx, c, authrpc.RedeemLogin, authrpc.RedeemLoginRequest{Code: code, Keys: k.reveal()})
}

func (a *app) welcome(p *profile.Profile) error {
	fmt.Fprintln(a.Stdout, "Logged in.")
	if err := a.writeLogin(p.Info); err != nil {
		return err
	}
	if p.SSHCert == nil {
		fmt.Fprintln(
			a.Stderr,
			"No role lets you log in to a node yet: ask an administrator for one. To see what you may see: tsh ls",
		)
		return nil
	}
	fmt.Fprintln(a.Stderr, "Next: tsh ls, then tsh ssh NODE")
	return nil
}
