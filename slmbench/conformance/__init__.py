"""What the conformance kit (:mod:`slmbench.testing`) checks, by subject."""
