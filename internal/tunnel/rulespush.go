package tunnel

import "crypto/sha256"

// RulesPush is rules on their way from a proxy to a node. This package does not read them.
type RulesPush struct {
	// Set is a whole rules.Set. At the node it is missing when the documents are those of the push before.
	Set []byte
	// Head is the signed head of the set alone. It changes every few seconds, while the documents stay the
	// same for days. At the node it is missing when no head came after Set.
	Head []byte
	// DocsDigest is equal for two pushes with the same documents. The zero value equals no other.
	DocsDigest [sha256.Size]byte
}

// withOlder merges a push into an older one that the node has not taken yet: the newest set, and the head
// that came after it if one did.
func (n RulesPush) withOlder(older RulesPush) RulesPush {
	if n.Set == nil {
		n.Set = older.Set
	}
	return n
}

// nextFrame returns the frame to send to a node: the head alone if the node accepts heads and the documents
// are those with the digest sent.
func (n RulesPush) nextFrame(heads bool, sent [sha256.Size]byte) (frameKind, []byte) {
	if heads && len(n.Head) > 0 && n.DocsDigest == sent && n.DocsDigest != [sha256.Size]byte{} {
		return frameHead, n.Head
	}
	return frameRules, n.Set
}
