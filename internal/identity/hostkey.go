package identity

import "golang.org/x/crypto/ssh"

// HostKeys returns the host keys that an SSH server offers. host is a signer with a host certificate. As
// OpenSSH's sshd does, the server offers the certificate first, and then the key alone.
//
// The key alone is for clients without support for host certificates, as Paramiko: they must know the key
// beforehand, or trust it on first use. A client that supports host certificates chooses the certificate,
// unless it is configured otherwise. For a host without a certificate there is only the key.
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

func (h plainHostKey) PublicKey() ssh.PublicKey { return h.key }
