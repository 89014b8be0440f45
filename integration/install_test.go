//go:build integration

package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

// Where the guide's names are. auth and proxy share a network inside; proxy, node and laptop share one
// outside, where the provider is too. Nothing forwards between them: the node has no way to auth but through
// the proxy.
var addresses = map[string]string{"access.example.com": "203.0.113.20", "login.example.com": "203.0.113.5"}

// guideRun is docs/install.md under way: a room for each machine that it names.
type guideRun struct {
	t          *testing.T
	containers map[string]*harness.Container
	systemd    map[string]*harness.Systemd
	roots      *x509.CertPool
	token      string // the last one that was printed
	printed    string // by the last command
	enrolled   harness.User
}

// What docs/install.md tells people to type is typed here, as it stands. Three things are not: a token is
// pasted where the guide says to paste one; "systemctl" is what harness.Systemd makes of it, because no
// service manager runs in a room; and the laptop has no desktop, so the story opens the page that tsh names.
func TestTheInstallationGuideAsItIsWritten(t *testing.T) {
	g := &guideRun{t: t, containers: map[string]*harness.Container{}, systemd: map[string]*harness.Systemd{}}
	g.build()
	text, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sh (\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 8 {
		t.Fatalf("got %d blocks to type, want the whole guide", len(blocks))
	}
	for _, b := range blocks {
		for _, command := range commands(b[2]) {
			began := time.Now()
			g.runTyped(b[1], command)
			t.Logf("%.1fs on %s: %s", time.Since(began).Seconds(), b[1], strings.SplitN(command, "\n", 2)[0])
		}
	}
	g.waitForReconnect()
	g.isReady("auth", "auth")
	g.isReady("proxy", "proxy")
	if out := g.containers["node"].Run("ss", "-tulnH", "state", "listening"); strings.TrimSpace(
		out.OK(t),
	) != "" {
		t.Errorf("got %q, want a node that listens on nothing", out.Stdout)
	}
	for _, name := range []string{"auth", "proxy"} {
		if owner := g.containers[name].Run("sh", "-c", "find /var/lib/threshold ! -user threshold; find /var/lib/threshold -maxdepth 0 ! -perm 700").OK(t); owner != "" {
			t.Errorf("%s: got %q, want data that is the server's alone", name, owner)
		}
		g.systemd[name].Do("stop", "threshold")
	}
	g.systemd["node"].Do("stop", "threshold-node")
}

// waitForReconnect waits until the node has dialled the restarted proxy again.
func (g *guideRun) waitForReconnect() {
	g.t.Helper()
	var r harness.Result
	for late := time.Now().Add(harness.Timeout); time.Now().Before(late); {
		if r = g.containers["laptop"].Run("tsh", "ssh", "ubuntu@web-1", "id -un"); r.Code == 0 &&
			strings.TrimSpace(r.Stdout) == "ubuntu" {
			return
		}
	}
	g.t.Errorf("got %+v long after the proxy's restart, want a session", r)
}

// commands parts a block into what is typed at a time: a line, with its here document.
func commands(block string) (out []string) {
	end := ""
	for line := range strings.Lines(block) {
		if end != "" {
			out[len(out)-1] += line
			if strings.TrimSpace(line) == end {
				end = ""
			}
			continue
		}
		out = append(out, line)
		if _, mark, ok := strings.Cut(line, "<<'"); ok {
			end, _, _ = strings.Cut(mark, "'")
		}
	}
	return out
}

// runTyped types one command on a machine.
func (g *guideRun) runTyped(machine, command string) {
	g.t.Helper()
	room := g.containers[machine]
	if room == nil {
		g.t.Fatalf("the guide types %q on %q, which is no machine of it", command, machine)
	}
	words := strings.Fields(command)
	switch {
	case words[0] == "systemctl":
		g.systemd[machine].Do(words[1:]...)
		return
	case strings.HasPrefix(command, "tsh login "):
		g.login(room, words)
		return
	}
	if strings.Contains(command, "PASTE THE TOKEN HERE") {
		if g.token == "" {
			g.t.Fatal("the guide wants a token pasted, and none was printed")
		}
		command, g.token = strings.Replace(command, "PASTE THE TOKEN HERE", g.token, 1), ""
	}
	r := room.Run("bash", "-c", "set -e\n"+command)
	g.printed = r.OK(g.t)
	if token := regexp.MustCompile(`thjoin1\.[A-Za-z0-9._-]+`).FindString(g.printed); token != "" {
		g.token = token
	}
}

// login types a tsh login and is the person in front of the browser.
func (g *guideRun) login(room *harness.Container, words []string) {
	g.t.Helper()
	p := room.Start(nil, words...)
	browser := formbrowser.New(g.roots, "").DialWith(room.Dial(addresses))
	page, err := browser.Open(g.t.Context(), p.Line("Open: "))
	if err != nil {
		g.t.Fatal(err)
	}
	alice := harness.Alice()
	if page, err = page.Submit(g.t.Context(), map[string]string{"login": alice.Email, "password": alice.Password}); err != nil {
		g.t.Fatal(err)
	}
	if g.enrolled, page = harness.Enrol(g.t, page, alice); g.enrolled.TOTPSecret == "" {
		g.t.Fatal("got no second factor")
	}
	if _, err := page.Follow(g.t.Context(), "continue"); err != nil {
		g.t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		g.t.Fatalf("tsh login: %v\n%s", err, p.Output())
	}
}

// isReady asks the machine's own /readyz, from the machine.
func (g *guideRun) isReady(machine, part string) {
	g.t.Helper()
	client := &http.Client{
		Transport: &http.Transport{DialContext: g.containers[machine].Dial(nil), DisableKeepAlives: true},
	}
	resp, err := client.Get("http://127.0.0.1:3080/readyz")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := `{"name":"` + part + `","ready":true}`; err != nil || resp.StatusCode != http.StatusOK ||
		!strings.Contains(string(body), want) {
		g.t.Errorf("%s: got %d %s, %v, want %s", machine, resp.StatusCode, body, err, want)
	}
}

// build makes the machines, their networks, the identity provider, and what the guide tells people to have
// ready.
func (g *guideRun) build() {
	debs := harness.Packages(g.t, "v1.2.3", runtime.GOARCH)
	authority := newWebAuthority(g.t)
	g.roots = authority.pool()
	for name, host := range map[string]string{"auth": "auth-1", "proxy": "proxy-1", "node": "web-1", "laptop": "laptop"} {
		room := harness.NewContainer(g.t, host)
		g.containers[name], g.systemd[name] = room, room.Systemd()
		var hosts strings.Builder
		hosts.WriteString("127.0.0.1 localhost " + host + "\n")
		for n, ip := range addresses {
			hosts.WriteString(ip + " " + n + "\n")
		}
		room.Run("rm", "-f", "/etc/hosts", "/usr/bin/xdg-open").OK(g.t) // names by file alone, and no desktop
		room.Put("/etc/hosts", []byte(hosts.String()), 0o644)
		room.Put("/usr/local/share/ca-certificates/story.crt", authority.pem(), 0o644)
		room.RunWith(strings.NewReader(string(authority.pem())), "sh", "-c", "cat >>/etc/ssl/certs/ca-certificates.crt").
			OK(g.t)
		for p, file := range debs {
			deb, err := os.ReadFile(file)
			if err != nil {
				g.t.Fatal(err)
			}
			room.Put(filepath.Join("/root", p+"_1.2.3_"+runtime.GOARCH+".deb"), deb, 0o644)
		}
	}
	g.connectNetworks()
	cert, key := authority.issue(g.t, "access.example.com")
	g.containers["proxy"].Put("/root/access.example.com.pem", cert, 0o644)
	g.containers["proxy"].Put("/root/access.example.com.key", key, 0o600)
	g.startProvider(authority)
}

// connectNetworks lays the networks.
func (g *guideRun) connectNetworks() {
	auth, proxy, node, laptop := g.containers["auth"], g.containers["proxy"], g.containers["node"], g.containers["laptop"]
	laptop.Run("ip", "link", "add", "outside", "type", "bridge").OK(g.t)
	laptop.Run("ip", "link", "set", "outside", "up").OK(g.t)
	laptop.Run("ip", "addr", "add", "203.0.113.5/24", "dev", "outside").OK(g.t)
	for name, room := range map[string]*harness.Container{"to-proxy": proxy, "to-node": node} {
		laptop.Connect(name, room, "outside")
		laptop.Run("ip", "link", "set", name, "master", "outside").OK(g.t)
	}
	proxy.Run("ip", "addr", "add", "203.0.113.20/24", "dev", "outside").OK(g.t)
	node.Run("ip", "addr", "add", "203.0.113.30/24", "dev", "outside").OK(g.t)
	auth.Connect("inside", proxy, "inside")
	auth.Run("ip", "addr", "add", "10.20.0.10/24", "dev", "inside").OK(g.t)
	proxy.Run("ip", "addr", "add", "10.20.0.20/24", "dev", "inside").OK(g.t)
	auth.Connect("egress", laptop, "to-auth") // to the provider, and to nothing else
	auth.Run("ip", "addr", "add", "198.51.100.2/30", "dev", "egress").OK(g.t)
	laptop.Run("ip", "addr", "add", "198.51.100.1/30", "dev", "to-auth").OK(g.t)
	auth.Run("ip", "route", "add", "203.0.113.5/32", "via", "198.51.100.1").OK(g.t)
}

// startProvider runs the identity provider that the guide's cluster is born with.
func (g *guideRun) startProvider(authority *webAuthority) {
	const issuer = "https://login.example.com"
	provider, err := oidctest.New(oidctest.Config{Issuer: issuer,
		Clients: []oidctest.Client{
			{
				ID:        "threshold",
				Secret:    "the secret from your provider",
				Redirects: []string{harness.CallbackURL("access.example.com", "corp")},
			},
		},
		Users: []oidctest.User{
			{Email: harness.Alice().Email, Password: harness.Password, Subject: "alice"},
		}})
	if err != nil {
		g.t.Fatal(err)
	}
	cert, key := authority.issue(g.t, "login.example.com")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		g.t.Fatal(err)
	}
	l := g.containers["laptop"].Listen(net.JoinHostPort(addresses["login.example.com"], "443"))
	harness.Serve(
		g.t,
		tls.NewListener(
			l,
			&tls.Config{
				Certificates: []tls.Certificate{pair},
				NextProtos:   []string{"http/1.1"},
				MinVersion:   tls.VersionTLS12,
			},
		),
		provider,
	)
}

// webAuthority issues web certificates that the story's machines trust.
type webAuthority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newWebAuthority(t *testing.T) *webAuthority {
	t.Helper()
	a := &webAuthority{key: newKey(t)}
	a.cert = a.sign(
		t,
		&x509.Certificate{
			SerialNumber:          big.NewInt(1),
			Subject:               pkix.Name{CommonName: "Web authority of the story"},
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign,
		},
		a.key,
	)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *webAuthority) sign(t *testing.T, c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue gives a certificate for a name and its key, as PEM.
func (a *webAuthority) issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	c := a.sign(
		t,
		&x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()),
			DNSNames:     []string{name},
			IPAddresses:  addressOf(name),
		},
		k,
	)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(
			&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw},
		), pem.EncodeToMemory(
			&pem.Block{Type: "PRIVATE KEY", Bytes: der},
		)
}

func addressOf(name string) []net.IP {
	if ip := net.ParseIP(name); ip != nil {
		return []net.IP{ip}
	}
	return nil
}

func (a *webAuthority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *webAuthority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}
