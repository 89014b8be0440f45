package identity

import "golang.org/x/crypto/ssh"

// HostKeys returns the keys that an SSH server offers for a host key with a certificate, in the order of
// OpenSSH's sshd: the certificate, then the key alone. The latter is for clients without support for host
// certificates, as Paramiko, which must know the key beforehand or trust it on first use. A client that
// supports host certificates does not choose the key alone unless it is configured to.
func HostKeys(host ssh.Signer) []ssh.Signer {
	if cert, ok := host.PublicKey().(*ssh.Certificate); ok {
		return []ssh.Signer{host, plainHostKey{host, cert.Key}}
	}
	return []ssh.Signer{host}
}

// plainHostKey offers the key inside a host certificate without the certificate.
type plainHostKey struct {
	ssh.Signer
	key ssh.PublicKey
}

func (b plainHostKey) PublicKey() ssh.PublicKey { return b.key }
