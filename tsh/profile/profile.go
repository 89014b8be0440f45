// Package profile answers: what does a login leave on this machine?
//
// There is one folder for each cluster under TSH_HOME (default ~/.tsh). Folders have mode 0700 and files
// 0600; each file is replaced atomically:
//
//	current               name of the cluster that commands use without --cluster and --proxy
//	clusters/CLUSTER/
//	  profile.json        cluster, pin and proxies; who is logged in, with which logins, until when
//	  ssh_key             private key, OpenSSH PEM; ssh_key-cert.pub and ssh_key.pub beside it
//	  x509_key.pem        private key, PKCS #8; x509_cert.pem beside it, leaf first
//	  known_hosts         the host authorities, for OpenSSH
//	  authorities.json    the signed chain from the pin to the current authorities
//	  machine-locks.json  the signed locks of machines, as far as this machine has heard of them
//
// A logout removes everything but profile.json, in which it keeps the cluster, the pin and the proxies: so a
// later login refuses a proxy that shows another cluster root.
package profile

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// Files of a profile.
const (
	infoFile         = "profile.json"
	SSHKeyFile       = "ssh_key"
	SSHCertFile      = "ssh_key-cert.pub"
	sshPubFile       = "ssh_key.pub"
	x509KeyFile      = "x509_key.pem"
	x509CertFile     = "x509_cert.pem"
	KnownHostsFile   = "known_hosts"
	authoritiesFile  = "authorities.json"
	machineLocksFile = "machine-locks.json"
	currentFile      = "current"
	clustersDir      = "clusters"
)

// Profile is a login as it is on disk: keys and certificates that match each other, and authorities that are
// verified with the pin.
type Profile struct {
	Info
	Home        Home
	SSHKey      crypto.Signer
	SSHCert     *ssh.Certificate // nil if the user's roles allow no login
	X509        tls.Certificate
	Chain       []rules.Signed
	Authorities rules.ParsedAuthorities
}

// Dir is the folder of the profile.
func (p *Profile) Dir() string { return p.Home.Dir(p.Cluster) }

// Load reads the login at the cluster and checks that its parts match each other. It does not check whether
// the login has expired: see CheckTime. It returns a NotFound fault without a login, an Invalid fault for a
// damaged one, and the other faults of ReadInfo.
func (h Home) Load(cluster string) (*Profile, error) {
	info, err := h.ReadInfo(cluster)
	if err != nil {
		return nil, err
	}
	if !info.LoggedIn() {
		return nil, loginMissingAt.New("", fault.Args{"place": cluster, "hint": info.loginHint()})
	}
	prof := &Profile{Info: info, Home: h}
	if err := prof.read(); err != nil {
		return nil, profileDamaged.Wrap(err, "", fault.Args{
			"cluster": cluster,
			"why":     err.Error(),
			"hint":    info.loginHint(), // a login replaces everything but profile.json, which is not damaged
		})
	}
	return prof, nil
}

// read reads the authorities and the SSH and X.509 files of the login into p; the caller has read
// profile.json into p.Info and set p.Home. The pin of profile.json must verify the authorities, they must
// name the same cluster as profile.json, and each certificate must match the private key that is stored with
// it.
func (p *Profile) read() error {
	b, err := p.readFile(authoritiesFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &p.Chain); err != nil {
		return fmt.Errorf("%s: %w", authoritiesFile, err)
	}
	cluster, parsed, err := rules.OpenAuthorities(p.Pin, p.Chain)
	if err != nil {
		return fmt.Errorf("%s: %w", authoritiesFile, err)
	}
	if cluster != p.Info.Cluster {
		return fmt.Errorf("%s is of cluster %q, not %q", authoritiesFile, cluster, p.Info.Cluster)
	}
	p.Authorities = parsed
	return errors.Join(p.readSSH(), p.readX509())
}

// readSSH reads the SSH key and its certificate into p.SSHKey and p.SSHCert. The certificate must be for this
// key. A missing certificate is no error: the user's roles allow no login. Who signed the certificate is not
// checked: the node checks it, so a forged one is of no use.
func (p *Profile) readSSH() error {
	b, err := p.readFile(SSHKeyFile)
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return fmt.Errorf("%s: %w", SSHKeyFile, err)
	}
	if p.SSHKey, err = signerOf(key); err != nil {
		return fmt.Errorf("%s: %w", SSHKeyFile, err)
	}
	b, err = p.readFile(SSHCertFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the user's roles allow no login
	}
	if err != nil {
		return err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return fmt.Errorf("%s: %w", SSHCertFile, err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return fmt.Errorf("%s contains no certificate", SSHCertFile)
	}
	own, err := ssh.NewPublicKey(p.SSHKey.Public())
	if err != nil || !bytes.Equal(cert.Key.Marshal(), own.Marshal()) {
		return fmt.Errorf("%s is not for %s", SSHCertFile, SSHKeyFile)
	}
	p.SSHCert = cert
	return nil
}

// readX509 reads the X.509 key and its certificate chain.
func (p *Profile) readX509() error {
	key, err := p.readFile(x509KeyFile)
	if err != nil {
		return err
	}
	certs, err := p.readFile(x509CertFile)
	if err != nil {
		return err
	}
	if p.X509, err = tls.X509KeyPair(certs, key); err != nil { // checks that the key matches
		return fmt.Errorf("%s: %w", x509CertFile, err)
	}
	return nil
}

func (p *Profile) readFile(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(p.Dir(), name))
}

// Path returns the path of a file of the profile.
func (p *Profile) Path(name string) string { return filepath.Join(p.Dir(), name) }

// CheckTime returns an Expired fault for a login that has expired, or that is not valid yet because this
// machine's clock is slow. It returns nil for a login that is valid at the time now.
func (p *Profile) CheckTime(now time.Time) error {
	leaf := p.X509.Leaf
	if now.Before(leaf.NotBefore) {
		err := &identity.ExpiredError{From: leaf.NotBefore, Until: leaf.NotAfter, Now: now}
		return clockBehindLogin.Wrap(err, "", fault.Args{"why": err.Error()})
	}
	if !now.Before(leaf.NotAfter) {
		return loginExpired.New("", fault.Args{
			"cluster": p.Cluster,
			"time":    leaf.NotAfter.Local().Format("2006-01-02 15:04"),
			"hint":    p.loginHint(),
		})
	}
	return nil
}

// Save writes the login prof to the folder of its cluster, over an earlier login, and makes the cluster the
// current one. It also sets prof.Home. It writes profile.json last: if the machine stops before, files of two
// logins may be mixed, and Load refuses the profile as damaged. The addresses of prof belong to its cluster
// from now on: Save takes them from the profiles of others. The faults are writeFault's.
func (h Home) Save(prof *Profile) error {
	prof.Home = h
	if err := h.makeDirs(prof.Dir()); err != nil {
		return err
	}
	files, err := prof.files()
	if err != nil {
		return err
	}
	for _, f := range files {
		path := prof.Path(f.name)
		if f.body == nil {
			err = removeFile(path)
		} else {
			err = durable.WriteFile(path, f.body)
		}
		if err != nil {
			return writeFault(path, err)
		}
	}
	if err := h.writeInfo(prof.Info); err != nil {
		return err
	}
	if err := h.takeProxies(prof.Info); err != nil {
		return err
	}
	return h.SetCurrent(prof.Cluster)
}

// takeProxies removes the proxies of the cluster from the profiles of other clusters. It leaves out profiles
// that cannot be read.
func (h Home) takeProxies(owner Info) error {
	clusters, err := h.Clusters()
	if err != nil {
		return err
	}
	isTaken := func(p Proxy) bool {
		return slices.ContainsFunc(owner.Proxies, func(q Proxy) bool { return q.Address == p.Address })
	}
	for _, cluster := range clusters {
		other, err := h.ReadInfo(cluster)
		if err != nil || cluster == owner.Cluster || !slices.ContainsFunc(other.Proxies, isTaken) {
			continue
		}
		other.Proxies = slices.DeleteFunc(other.Proxies, isTaken)
		if err := h.writeInfo(other); err != nil {
			return err
		}
	}
	return nil
}

// file is one file of a profile to be written.
type file struct {
	name string
	body []byte // nil: the file is removed
}

// files encodes the profile and returns its files but profile.json, in the order in which Save writes them.
func (p *Profile) files() ([]file, error) {
	sshKey, err := ssh.MarshalPrivateKey(p.SSHKey, p.User+"@"+p.Cluster)
	if err != nil {
		return nil, fmt.Errorf("encode the SSH key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(p.SSHKey.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the SSH key: %w", err)
	}
	x509Key, err := x509.MarshalPKCS8PrivateKey(p.X509.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encode the X.509 key: %w", err)
	}
	var x509Certs []byte
	for _, der := range p.X509.Certificate {
		x509Certs = append(x509Certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	chain, err := json.Marshal(p.Chain)
	if err != nil {
		return nil, fmt.Errorf("encode the authorities: %w", err)
	}
	var sshCert []byte // nil removes the certificate of an earlier login
	if p.SSHCert != nil {
		sshCert = ssh.MarshalAuthorizedKey(p.SSHCert)
	}
	return []file{
		{SSHKeyFile, pem.EncodeToMemory(sshKey)},
		{sshPubFile, ssh.MarshalAuthorizedKey(sshPub)},
		{SSHCertFile, sshCert},
		{x509KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: x509Key})},
		{x509CertFile, x509Certs},
		{authoritiesFile, chain},
		{KnownHostsFile, p.knownHosts()},
	}, nil
}

// Remove deletes the login at the cluster from this machine: keys, certificates, authorities, machine locks
// and known hosts, and in profile.json everything but the cluster, the pin and the proxies. It removes the
// keys first. It returns a NotFound fault if there is no profile, and the faults of ReadInfo and writeFault.
func (h Home) Remove(cluster string) error {
	info, err := h.ReadInfo(cluster)
	if err != nil {
		return err
	}
	names := []string{
		SSHKeyFile, sshPubFile, SSHCertFile, x509KeyFile, x509CertFile, authoritiesFile, machineLocksFile,
		KnownHostsFile,
	}
	for _, name := range names {
		path := filepath.Join(h.Dir(cluster), name)
		if err := removeFile(path); err != nil {
			return writeFault(path, err)
		}
	}
	return h.writeInfo(Info{Cluster: info.Cluster, Pin: info.Pin, Proxies: info.Proxies})
}

// signerOf narrows the result of ssh.ParseRawPrivateKey.
func signerOf(key any) (crypto.Signer, error) {
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return s, nil
}
