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
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/loopback"
	"github.com/threshold-access/threshold/tsh/profile"
)

// loginTime bounds the part of the login in the browser.
const loginTime = 10 * time.Minute

// loginOptions are the flags of tsh login.
type loginOptions struct {
	caFile    string // has the authorities for the proxy's web certificate; empty: the system's authorities
	pin       string // sha256:…; empty: see choosePin
	browser   string // "none": print the address of the login page; empty: open a browser
	connector string // empty: the user chooses on the login page
	agent     string // auto, yes or no: see addToAgent
	headless  bool   // the user approves the login in a browser on another machine
}

// loginCmd is "tsh login". docs/architecture.md shows all steps of a login. tsh begins it and, after the
// steps in the browser, exchanges its result for certificates.
func (a *app) loginCmd() *cobra.Command {
	var opts loginOptions
	cmd := &cobra.Command{
		Use:     "login --proxy HOST",
		Short:   "Log in with a browser and get certificates for some hours",
		GroupID: everyday,
		Args:    noArgs("name the proxy with a flag: tsh login --proxy %s"),
		Example: `  tsh login --proxy access.example.com
  tsh login --browser=none        # prints the address, to be opened in a browser on this machine
  tsh login --headless            # on a machine without a browser: approve the login on another machine`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runLogin(cmd.Context(), opts) },
	}
	const (
		caFileHelp    = "`FILE` with the authority that signed the proxy's web certificate; for a first login"
		pinHelp       = "the cluster's `PIN`, sha256:…, from an administrator; no web certificate is checked"
		headlessHelp  = "approve the login elsewhere; it lasts an hour at most, and only from this address"
		connectorHelp = "`NAME` of the identity provider, if there are several"
		agentHelp     = "`auto|yes|no`; auto: only if ssh-agent can limit the key to this cluster's nodes"
	)
	flags := cmd.Flags()
	flags.StringVar(&opts.caFile, "ca-file", "", caFileHelp)
	flags.StringVar(&opts.pin, "pin", "", pinHelp)
	flags.StringVar(&opts.browser, "browser", "", "`none` prints the address instead of opening a browser")
	flags.BoolVar(&opts.headless, "headless", false, headlessHelp)
	flags.StringVar(&opts.connector, "connector", "", connectorHelp)
	flags.StringVar(&opts.agent, "add-keys-to-agent", "auto", agentHelp)
	completeFlag := func(flag string, values ...string) {
		completions := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
		_ = cmd.RegisterFlagCompletionFunc(flag, completions) // the flag exists
	}
	completeFlag("add-keys-to-agent", "auto", "yes", "no")
	completeFlag("browser", "none")
	return cmd
}

// check returns an Invalid fault for an unknown value of a flag and for --headless together with --browser.
func (o loginOptions) check() error {
	if o.browser != "" && o.browser != "none" {
		return flagBrowserInvalid.New("", fault.Args{"value": o.browser})
	}
	if o.headless && o.browser != "" {
		return flagBrowserWithHeadless.New("")
	}
	switch o.agent {
	case "auto", "yes", "no":
		return nil
	}
	return flagAgentInvalid.New("", fault.Args{"value": o.agent})
}

// runLogin logs in at the proxy of --proxy, or at one of the profile of --cluster or of the latest login, and
// makes that login the current one. It
// writes nothing to disk before it has verified everything that the auth service sent. It returns an Invalid
// fault for wrong flags, and the errors of contact, of the login in the browser, of verify and of the
// profile. That the key could not be loaded into ssh-agent is no error: updateAgent only prints it.
func (a *app) runLogin(ctx context.Context, opts loginOptions) error {
	if err := opts.check(); err != nil {
		return err
	}
	home, err := a.home()
	if err != nil {
		return err
	}
	addrs, err := a.loginAddresses(home)
	if err != nil {
		return err
	}
	target, addr, err := a.contactFirst(ctx, home, addrs, opts)
	if err != nil {
		return err
	}
	// The proxy at addr is now known to lead to the auth service of the cluster target.
	keys, err := newLoginKeys()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, loginTime, errLoginTimeout)
	defer cancel()
	login := a.loginWithBrowser
	if opts.headless {
		login = a.loginHeadless
	}
	resp, err := login(ctx, addr, target, keys, opts)
	if err != nil {
		return err
	}
	prof, err := verify(resp, target, keys, a.Now()) // nothing of resp is trusted before
	if err != nil {
		return err
	}
	proxy := profile.Proxy{Address: addr}
	if target.transport == dial.WebSocket { // TLS, the default, is not written to the profile
		proxy.Transport = target.transport
	}
	// The addresses of a cluster with another root lead elsewhere. An error means that there is no profile
	// that can be read.
	if kept, err := home.ReadInfo(prof.Cluster); err == nil && kept.Pin == prof.Pin {
		prof.Proxies = kept.Proxies
	}
	prof.AddProxy(proxy)
	// updateAgent removes the key of the previous login. An error means that there is none or that its
	// profile is damaged; previous is nil then, and a key that is left in the agent expires by itself.
	previous, _ := home.Load(prof.Cluster)
	if err := home.Save(prof); err != nil {
		return err
	}
	a.keepLoginLocks(prof, resp.MachineLocks)
	a.updateAgent(ctx, opts.agent, previous, prof)
	return a.reportLogin(prof)
}

// loginAddresses returns the addresses at which a login is tried, in this order: that of --proxy, or those of
// the profile of --cluster or of the latest login. Without any it returns an Invalid fault.
func (a *app) loginAddresses(home profile.Home) ([]string, error) {
	if a.proxy != "" {
		addr, err := profile.ParseProxy(a.proxy)
		return []string{addr}, err
	}
	info, err := a.selectProfile(home)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	var addrs []string
	for _, proxy := range info.Proxies {
		addrs = append(addrs, proxy.Address)
	}
	if len(addrs) == 0 {
		return nil, proxyMissing.New("")
	}
	return addrs, nil
}

// contactFirst is contact for the first of the addresses that can be reached, which it returns. If none can,
// the error is that of the last.
func (a *app) contactFirst(
	ctx context.Context, home profile.Home, addrs []string, opts loginOptions,
) (target cluster, addr string, err error) {
	for _, addr = range addrs {
		target, err = a.contact(ctx, home, addr, opts)
		if !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			break
		}
	}
	return target, addr, err
}

var errLoginTimeout = loginBrowserTimeout.New("", fault.Args{"limit": loginTime})

// loginKeys are the new keys of a login, which never leave this machine, and the verifier that proves that
// this process began the login.
type loginKeys struct {
	ssh      ed25519.PrivateKey
	x509     *ecdsa.PrivateKey
	sshPub   []byte // SSH wire format
	x509Pub  []byte // PKIX DER
	verifier string
}

// newLoginKeys generates an Ed25519 key for SSH and a P-256 key for TLS. Every login has new ones.
func newLoginKeys() (*loginKeys, error) {
	keys := &loginKeys{verifier: randomText()}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an SSH key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("make an SSH key: %w", err)
	}
	keys.ssh, keys.sshPub = priv, sshPub.Marshal()
	if keys.x509, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make an X.509 key: %w", err)
	}
	if keys.x509Pub, err = x509.MarshalPKIXPublicKey(keys.x509.Public()); err != nil {
		return nil, fmt.Errorf("make an X.509 key: %w", err)
	}
	return keys, nil
}

// challenge returns a hash of the verifier and both public keys. tsh sends it when the login begins: from
// then on the login can only end with these keys.
func (k *loginKeys) challenge() string { return authrpc.Challenge(k.verifier, k.sshPub, k.x509Pub) }

// reveal returns the verifier and the public keys, whose hash is the challenge. tsh sends them to get the
// certificates. The auth service compares the hash, so only the process that began the login can get them.
func (k *loginKeys) reveal() authrpc.Keys {
	return authrpc.Keys{Verifier: k.verifier, SSHKey: k.sshPub, X509Key: k.x509Pub}
}

// randomText is 256 random bits as text.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// loginWithBrowser logs in with a browser on this machine.
func (a *app) loginWithBrowser(
	ctx context.Context,
	addr string,
	target cluster,
	keys *loginKeys,
	opts loginOptions,
) (authrpc.RedeemLoginResponse, error) {
	code, err := a.awaitBrowser(ctx, addr, keys.challenge(), opts)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	return a.redeem(ctx, addr, target, code, keys)
}

// awaitBrowser opens the proxy's login page in a browser, or prints its address, and waits until the browser
// sends a one-time code to a listener of tsh on loopback (RFC 8252 section 7.3). It returns the code. It
// returns an Unavailable fault if tsh cannot listen, a Denied fault if the login page reported an error, and
// errLoginTimeout if the browser took too long.
func (a *app) awaitBrowser(
	ctx context.Context,
	addr, challenge string,
	opts loginOptions,
) (code string, err error) {
	state := randomText()
	callback, err := loopback.Listen(state)
	if err != nil {
		return "", callbackListenFailed.Wrap(err, "", fault.Args{"why": err.Error()})
	}
	page := loginURL(addr, challenge, callback.URL(), state, opts.connector)
	// An address that the user must open goes to standard output, where scripts read it.
	if opts.browser == "none" {
		fmt.Fprintln(a.Stdout, "Open: "+page)
	} else if err := openBrowser(ctx, page); err != nil {
		fmt.Fprintln(a.Stderr, "No browser could be started. Open this address on this machine:")
		fmt.Fprintln(a.Stdout, "Open: "+page)
	} else {
		fmt.Fprintln(a.Stderr, "Your browser opens. If it does not, open this address on this machine:")
		fmt.Fprintln(a.Stderr, "  "+page)
	}
	code, err = callback.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errLoginTimeout) {
		return "", errLoginTimeout
	}
	return code, err
}

// loginURL returns the address of the proxy's login page. At the end the page sends the browser to callback,
// an address of this process, with the code and with state, by which tsh knows that the answer is for this
// login.
func loginURL(addr, challenge, callback, state, connector string) string {
	q := url.Values{"challenge": {challenge}, "callback": {callback}, "state": {state}}
	if host := hostName(); host != "" {
		q.Set("host", host)
	}
	if connector != "" {
		q.Set("connector", connector)
	}
	return origin(addr) + "/login?" + q.Encode()
}

// hostName returns what this computer calls itself, for the user to recognise it. It returns "" if it has no
// name, or one that is no host name.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || !authrpc.ValidHostName(name) {
		return ""
	}
	return name
}

// origin returns the proxy's web address, https://HOST:PORT, without the default port. addr is host:port.
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

// redeem sends the one-time code and the revealed keys to the auth service, and returns its answer with the
// certificates, which is not verified yet. The proxy cannot read or change the call: it passes the TLS
// connection to the auth service through unopened.
func (a *app) redeem(
	ctx context.Context,
	addr string,
	target cluster,
	code string,
	keys *loginKeys,
) (authrpc.RedeemLoginResponse, error) {
	client := authrpc.NewClientWithDialer(a.dialer, addr, target.authTLS(a.Now))
	defer client.Close()
	req := authrpc.RedeemLoginRequest{Code: code, Keys: keys.reveal()}
	return authrpc.Call(ctx, client, authrpc.RedeemLogin, req)
}

// reportLogin shows the new login and the next command to type.
func (a *app) reportLogin(prof *profile.Profile) error {
	fmt.Fprintln(a.Stdout, "Logged in.")
	if err := a.writeLogin(a.Stdout, a.statusOf(prof.Info, prof.Cluster)); err != nil {
		return err
	}
	if prof.SSHCert == nil {
		fmt.Fprintln(
			a.Stderr,
			"No role lets you log in to a node yet: ask an administrator for one. To list the nodes: tsh ls",
		)
		return nil
	}
	fmt.Fprintln(a.Stderr, "Next: tsh ls, then tsh ssh NODE")
	return nil
}
