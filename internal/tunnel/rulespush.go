package tunnel

import "crypto/sha256"

// RulesPush has the rules that a proxy sends to a node, encoded. This package does not decode them.
//
// The proxy fills in all fields. What the node receives has Set, or Head, or both: Head is then newer than
// the head inside Set.
type RulesPush struct {
	// Set is a whole rules.Set. It is nil at the node if only heads came since the node last took a push: the
	// documents have not changed then.
	Set []byte
	// Head is the signed head of Set alone. It changes every few seconds, while the documents stay the same
	// for days. It is nil at the node if no head came after Set.
	Head []byte
	// DocsDigest is equal for two pushes with the same documents. Zero means that it is not known; such a
	// push is always sent whole. It is not sent to the node.
	DocsDigest [sha256.Size]byte
}

// withOlder returns what the node must take of push p and of an older one that it has not taken yet. A push
// of a set replaces the older one. A push of a head alone belongs to the older set, and is returned with it.
func (p RulesPush) withOlder(older RulesPush) RulesPush {
	if p.Set == nil {
		p.Set = older.Set
	}
	return p
}

// nextFrame returns the kind and body of the frame by which the proxy sends the push: the head alone if the
// node accepts heads and has the documents already, and the whole set otherwise. sentDocs is the DocsDigest
// of the push before.
func (p RulesPush) nextFrame(acceptsHeads bool, sentDocs [sha256.Size]byte) (frameKind, []byte) {
	digestKnown := p.DocsDigest != [sha256.Size]byte{}
	if acceptsHeads && len(p.Head) > 0 && digestKnown && p.DocsDigest == sentDocs {
		return frameHead, p.Head
	}
	return frameRules, p.Set
}
