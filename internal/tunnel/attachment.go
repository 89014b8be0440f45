package tunnel

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// attachmentDigest is what the node signs. Its label separates attachments from all else that the service key
// signs.
func attachmentDigest(payload []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte("threshold attachment v1\x00"), payload...))
}

// Verify returns the attachment if key, the node's service key, signed it.
func (s SignedAttachment) Verify(key crypto.PublicKey) (Attachment, error) {
	var a Attachment
	if len(s.Payload) > MaxHeaderBytes {
		return a, fmt.Errorf(
			"tunnel: attachment of %d bytes is larger than %d",
			len(s.Payload), MaxHeaderBytes,
		)
	}
	pub, ok := key.(*ecdsa.PublicKey)
	sum := attachmentDigest(s.Payload)
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], s.Sig) {
		return a, fmt.Errorf("tunnel: attachment is not signed by the node's key")
	}
	if err := json.Unmarshal(s.Payload, &a); err != nil {
		return Attachment{}, fmt.Errorf("tunnel: attachment: %w", err)
	}
	if a.V != Version {
		return Attachment{}, fmt.Errorf("tunnel: attachment version %d is not supported", a.V)
	}
	return a, nil
}
