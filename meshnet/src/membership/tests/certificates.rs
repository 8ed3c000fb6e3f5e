use super::*;

fn refused(alter: impl FnOnce(&mut Certificate)) -> CertificateError {
    let trust = trust();
    VerifiedCertificate::verify(&trust, altered(&trust, 3, alter), None).unwrap_err()
}

#[test]
fn what_a_root_signs_must_still_make_sense() {
    assert_eq!(refused(|c| c.mesh = MeshId([9; 16])), CertificateError::WrongMesh);
    assert_eq!(refused(|c| c.member = MemberId([9; 16])), CertificateError::WrongIdentity);
    assert_eq!(refused(|c| c.identity = identity(4).public()), CertificateError::WrongIdentity);
    assert_eq!(refused(|c| c.not_after_s = c.not_before_s), CertificateError::EmptyTime);
    assert_eq!(refused(|c| c.constraints = Some(Box::default())), CertificateError::StrayConstraints);
    assert_eq!(refused(|c| c.issuer = Issuer::Root([0; 8])), CertificateError::UnknownRoot);
    assert_eq!(refused(|c| c.issuer = Issuer::Member(id(50), Serial(0))), CertificateError::UnknownIssuer);
}

#[test]
fn addresses_and_prefixes_are_those_of_members() {
    let network6 = member_network6(trust().mesh());
    let others = member_address6(trust().mesh(), id(4)).to_string();
    for bad in ["10.98.0.1", "10.99.0.0", "10.99.255.255", "ff02::1", "::", "::1", &others] {
        assert_eq!(refused(|c| c.addresses = vec![ip(bad)]), CertificateError::BadAddress(ip(bad)));
    }
    for bad in ["224.0.0.0/4", "127.0.0.0/8", "ff00::/8", "0.0.0.0/8"] {
        assert_eq!(refused(|c| c.prefixes = vec![net(bad)]), CertificateError::BadPrefix(net(bad)));
    }
    let own = IpAddr::V6(member_address6(trust().mesh(), id(3)));
    let trust = trust();
    let good = altered(&trust, 3, |c| {
        c.addresses = vec![own, ip("2001:db8::1")];
        c.prefixes = vec![net("0.0.0.0/0"), net("::/0"), IpNet::V6(network6)];
    });
    let good = VerifiedCertificate::verify(&trust, good, None).unwrap();
    assert_eq!(good.addresses().collect::<Vec<_>>(), [ip("2001:db8::1"), own]);
}

#[test]
fn every_bit_of_a_certificate_is_signed() {
    let trust = trust();
    let good = issue_root(&trust, START, request(3)).signed().to_bytes();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let verified = Signed::parse(&bytes).ok().map(|c| VerifiedCertificate::verify(&trust, c, None));
        assert!(!matches!(verified, Some(Ok(_))), "bit {bit}");
    }
}

#[test]
fn a_signature_over_another_kind_of_object_is_none() {
    let trust = trust();
    let genuine = issue_root(&trust, START, request(3));
    let stolen = *revocation(RevocationTarget::Member(id(3)), 0).signature();
    let forged = Signed::sign_with(genuine.body().clone(), |_| stolen).unwrap();
    assert_eq!(VerifiedCertificate::verify(&trust, forged, None), Err(CertificateError::BadSignature));
}

#[test]
fn an_issuer_issues_within_its_constraints_only() {
    let trust = trust();
    let by = issuer(&trust);
    let refused = |alter: fn(&mut Request)| {
        let mut request = home_request(3);
        alter(&mut request);
        match issue_home(&trust, START, &by, request) {
            Err(IssueError::Refused(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(issue_home(&trust, START, &by, home_request(3)).is_ok());
    assert!(issue_home(&trust, START, &by, Request { roles: Roles::RELAY, ..home_request(3) }).is_ok());
    assert_eq!(refused(|r| r.roles = Roles::ISSUER), CertificateError::RolesNotAllowed);
    assert_eq!(refused(|r| r.roles = Roles::OPERATOR), CertificateError::RolesNotAllowed);
    assert_eq!(refused(|r| r.name = name("node3")), CertificateError::NameNotAllowed);
    assert_eq!(refused(|r| r.lifetime_s += 1), CertificateError::LifetimeTooLong);
    assert_eq!(
        refused(|r| r.addresses = vec![ip("10.99.9.1")]),
        CertificateError::PrefixNotAllowed(net("10.99.9.1/32"))
    );
    assert_eq!(
        refused(|r| r.prefixes = vec![net("172.0.0.0/8")]),
        CertificateError::PrefixNotAllowed(net("172.0.0.0/8"))
    );
}

#[test]
fn constraints_without_prefixes_allow_addresses_of_the_mesh_and_nothing_behind() {
    let trust = trust();
    let constraints = IssuerConstraints { max_lifetime_s: u32::MAX, ..IssuerConstraints::default() };
    let by = issue_root(
        &trust,
        START,
        Request { roles: Roles::ISSUER, constraints: Some(constraints), ..request(50) },
    );
    let bare = Request { prefixes: Vec::new(), ..home_request(3) };
    assert!(issue_home(&trust, START, &by, bare).is_ok());
    assert!(issue_home(&trust, START, &by, home_request(3)).is_err());
}

#[test]
fn an_issuer_needs_the_role_by_a_root_in_its_time_and_in_its_own_name() {
    let trust = trust();
    let by = issuer(&trust);
    let plain = issue_root(&trust, START, request(50));
    let refused = |wall, by: &VerifiedCertificate| issue_home(&trust, wall, by, home_request(3)).unwrap_err();
    assert_eq!(refused(START, &plain), IssueError::Refused(CertificateError::NotIssuer));
    assert_eq!(refused(days(90 + 14 + 1), &by), IssueError::Refused(CertificateError::IssuedTooLate));
    assert!(issue_home(&trust, days(90), &by, home_request(3)).is_ok(), "in grace");

    let leaf = issue_home(&trust, START, &by, home_request(3)).unwrap();
    let verify = |issuer: &VerifiedCertificate| {
        VerifiedCertificate::verify(&trust, leaf.signed().clone(), Some(issuer)).map(drop)
    };
    assert_eq!(verify(&by), Ok(()));
    assert_eq!(verify(&leaf), Err(CertificateError::UnknownIssuer));
    let older = altered(&trust, 50, |c| c.serial = Serial(1));
    let older = VerifiedCertificate::verify(&trust, older, None).unwrap();
    assert_eq!(verify(&older), Err(CertificateError::UnknownIssuer));

    let mut second_hand = by.body().clone();
    second_hand.issuer = Issuer::Member(id(51), Serial(1));
    let leaf = Certificate { not_after_s: second_hand.not_after_s, ..leaf.body().clone() };
    let chained = crate::membership::certificate::check_delegation(&leaf, &second_hand);
    assert_eq!(chained, Err(CertificateError::ChainTooLong));
}

#[test]
fn a_renewed_issuer_certificate_serves_for_what_the_old_one_issued() {
    let trust = trust();
    let by = issuer(&trust);
    let leaf = issue_home(&trust, START, &by, home_request(3)).unwrap();
    let renewed = Request {
        roles: by.body().roles,
        constraints: by.body().constraints.as_deref().cloned(),
        ..request(50)
    };
    let renewed =
        issue(days(60), &trust, &Signer::Root(&root(1)), renewed, Some(by.body().serial), 0).unwrap();
    assert!(VerifiedCertificate::verify(&trust, leaf.signed().clone(), Some(&renewed)).is_ok());
}

#[test]
fn time_passes_from_not_yet_to_valid_to_grace_to_expired() {
    let certificate = issue_root(&trust(), START, request(3));
    let (begin_s, end_s) = (certificate.body().not_before_s, certificate.body().not_after_s);
    assert_eq!(end_s - begin_s, DEFAULT_LIFETIME_S);
    let at = |s: u64| certificate.validity(UnixMs(s * 1000));
    assert_eq!(at(begin_s - CLOCK_TOLERANCE_S - 1), Validity::NotYet);
    assert_eq!(at(begin_s - CLOCK_TOLERANCE_S), Validity::Valid);
    assert_eq!(at(end_s), Validity::Valid);
    assert_eq!(at(end_s + 1), Validity::Grace);
    assert_eq!(at(end_s + GRACE_S), Validity::Grace);
    assert_eq!(at(end_s + GRACE_S + 1), Validity::Expired);
    assert_eq!(certificate.validity(UnixMs(0)), Validity::NotYet);
    assert_eq!(certificate.validity(UnixMs(u64::MAX)), Validity::Expired);
    let changes: Vec<_> = Validity::changes(certificate.body()).collect();
    for pair in changes.windows(2) {
        assert_ne!(certificate.validity(UnixMs(pair[0].0 - 1)), certificate.validity(pair[0]));
        assert_eq!(certificate.validity(pair[0]), certificate.validity(UnixMs(pair[1].0 - 1)));
    }
}

#[test]
fn serials_grow_even_when_the_clock_goes_back() {
    let trust = trust();
    let first = issue_root(&trust, days(10), request(3)).body().serial;
    let signer = Signer::Root(&root(1));
    let second = issue(days(1), &trust, &signer, request(3), Some(first), 0).unwrap();
    assert!(second.body().serial > first);
    let later = issue(days(20), &trust, &signer, request(3), Some(first), 3).unwrap();
    assert_eq!(later.body().serial.0, (days(20).0 << 16) | 3);
}

#[test]
fn a_certificate_that_would_not_fit_is_not_issued() {
    let trust = trust();
    let sign = |request| issue(START, &trust, &Signer::Root(&root(1)), request, None, 0);
    let many = |n: u16| (0..n).map(|i| net(&format!("fd00:{i:x}::/32"))).collect::<Vec<_>>();
    assert_eq!(sign(Request { prefixes: many(65), ..request(3) }), Err(IssueError::TooManyPrefixes));
    assert!(matches!(sign(Request { prefixes: many(64), ..request(3) }), Err(IssueError::TooLong(_))));
    let addresses = vec![ip("10.99.0.1"); 5];
    assert_eq!(sign(Request { addresses, ..request(3) }), Err(IssueError::TooManyAddresses));
}
