package tunnel

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"

	"github.com/threshold-access/threshold/internal/wire"
)

var attachmentFields = wire.Fields(Attachment{})

// attachmentDigest returns the digest that the node signs. It begins with a label, so that no other signature
// of the service key can be passed off as one of an attachment.
func attachmentDigest(payload []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte("threshold attachment v1\x00"), payload...))
}

// Verify decodes the attachment and returns it if key signed it, which must be the service key in the node's
// certificate. The caller checks the fields: that the attachment is of that node, and for which proxy and
// time.
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
	if err := wire.Unmarshal("the node's attachment", s.Payload, &a, Version, attachmentFields); err != nil {
		return Attachment{}, err
	}
	return a, nil
}
