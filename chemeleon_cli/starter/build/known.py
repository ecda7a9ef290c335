"""What is known: the forms of the elements, and well-known compounds in their structure types."""

ELEMENTAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Si", "Ge", "Sn"), ("A_cF8_227_a", "A_tI4_141_a")),
    **dict.fromkeys(("P", "Sb", "Bi"), ("A_oC8_64_f", "A_hR2_166_c", "A_cP1_221_a")),
    **dict.fromkeys(("S", "Se"), ("A_hP3_152_a",)),
    **dict.fromkeys(("Ga", "In"), ("A_oC8_64_f", "A_tI2_139_a")),
    "B": ("A_hR12_166_2h",),
}
"""AFLOW labels (all their occurrences) of the forms that elements are known in, beside fcc, bcc and hcp."""
METALLIC = ("A_cF4_225_a", "A_cI2_229_a", "A_hP2_194_c", "A_hP4_194_ac")
"""AFLOW labels of fcc, bcc, hcp and double hcp."""

COMPOUNDS = {
    "AB_cF8_225_a_b": "LiF LiCl LiBr LiI NaF NaCl NaBr NaI KF KCl KBr KI RbF RbCl RbBr RbI CsF AgF AgCl AgBr MgO CaO "
    "SrO BaO CdO MgS CaS SrS BaS MgSe CaSe SrSe BaSe PbS PbSe ScN YN LaN TiN ZrN HfN YP LaP YBi "
    "LaBi",
    "AB_cP2_221_b_a": "CsCl CsBr CsI",
    "AB_cF8_216_c_a": "ZnS ZnSe CdS CdSe CuF CuCl CuBr CuI BN BP AlP GaP InP AlSb GaSb InSb",
    "AB_hP4_186_b_b": "ZnO ZnS CdS CdSe AlN GaN InN AgI LiI CuCl",
    "AB2_cF12_225_a_c": "CaF2 SrF2 BaF2 CdF2 PbF2 SrCl2 BaCl2 Li2O Na2O K2O Rb2O Li2S Na2S K2S Rb2S Li2Se Na2Se K2Se "
    "Mg2Si Mg2Ge Mg2Sn Mg2Pb ZrO2 HfO2",
    "A2B_tP6_136_f_a": "TiO2 SnO2 GeO2 PbO2 MgF2 ZnF2 SiO2",
    "AB2_hP3_164_a_d": "MgCl2 MgBr2 MgI2 CaI2 CdCl2 CdBr2 CdI2 PbI2 ZnBr2 TiS2 TiSe2 ZrS2 ZrSe2 HfS2 HfSe2 SnS2 SnSe2",
    "A2B_oP12_62_2c_c": "PbCl2 PbBr2 PbF2 BaCl2 BaBr2 BaI2 SrBr2 CaBr2",
    "A2B3_hR10_167_c_e": "Al2O3 Ga2O3 In2O3 Sc2O3 Ti2O3",
    "A2B3_hR5_166_c_ac": "Bi2Se3 Sb2Se3 Bi2S3 In2Se3",
    "A3B2_oP20_62_3c_2c": "Sb2S3 Bi2S3 Sb2Se3",
    "AB3_hR8_148_c_f": "BiI3 SbI3 ScCl3 YCl3 ScBr3",
    "AB3_cF16_225_a_bc": "BiF3 LaF3 Li3Sb Li3Bi",
    "A3B_cP4_221_d_a": "AlF3 ScF3 InF3",
    "AB3_hR8_155_c_de": "AlF3 GaF3 InF3 ScF3",
    "A3B_hP4_191_bc_a": "Li3N Li3P",
    "AB3_hP8_194_c_bf": "Na3P Li3P K3P Na3Sb K3Sb Na3Bi K3Bi Rb3Sb Cs3Sb",
    "A2B_hP9_152_c_a": "SiO2 GeO2",
    "AB_hP4_194_c_d": "BN",
    "AB_oP8_62_c_c": "GeS GeSe SnS SnSe",
    "AB3C_cP5_221_a_c_b": "SrTiO3 BaTiO3 CaTiO3 PbTiO3 SrZrO3 BaZrO3 SrHfO3 BaHfO3 BaSnO3 SrSnO3 KTaO3 KNbO3 NaTaO3 "
    "LaAlO3 LaGaO3 CsPbCl3 CsPbBr3 CsPbI3 CsSnCl3 CsSnBr3 CsSnI3 KMgF3 RbCaF3 KZnF3 CsCaCl3 "
    "LaScO3 CsCdF3 LiBaF3",
    "AB3C_oP20_62_c_cd_a": "CaTiO3 SrZrO3 CaZrO3 CaHfO3 LaScO3 LaInO3 NaMgF3 CsSnI3 CsPbI3",
    "A2BC4_cF56_227_d_a_e": "MgAl2O4 ZnAl2O4 ZnGa2O4 MgGa2O4 CdIn2S4 MgIn2O4 ZnIn2S4 SnMg2O4 TiZn2O4 GeMg2O4 MgSc2S4 "
    "MgY2Se4",
    "ABC2_tI16_122_a_b_d": "CuInS2 CuGaS2 CuAlS2 CuInSe2 CuGaSe2 AgGaS2 AgGaSe2 AgInS2 AgInSe2 ZnGeP2 CdGeP2 ZnSiP2 "
    "CdSnP2 LiInS2 LiGaS2",
    "ABC2_hR4_166_a_b_c": "LiScO2 NaScO2 NaYO2 NaInO2 NaInS2 NaYS2 KYS2 LiYO2 KScO2 KBiS2 NaBiS2 CuAlO2 CuGaO2 AgAlO2 "
    "KLaS2 RbYSe2",
    "ABC_tP6_129_c_a_c": "PbFCl BaFCl SrFCl CaFCl BaFBr BiOCl BiOBr BiOI LaOCl YOCl LaOBr",
    "ABC3_hR10_161_a_a_b": "LiNbO3 LiTaO3",
    "ABC3_hR10_167_a_b_e": "LaBO3 YBO3 InBO3 ScBO3 GaBO3 NaNO3 LiNO3",
    "A4BC_tI24_141_h_b_a": "ZrSiO4 HfSiO4 YPO4 ScPO4 LaPO4",
    "AB4C_tI12_82_c_g_a": "BPO4",
    "A2BC4_tI14_82_bc_a_g": "CdGa2S4 ZnGa2Se4 ZnAl2S4 CdAl2Se4 CdGa2Se4",
    "AB2C4_tI14_139_a_e_ce": "Sr2TiO4 Ba2ZrO4 Ba2SnO4 Sr2SnO4 K2MgF4 Rb2ZnF4 K2ZnF4 Ba2HfO4",
    "ABC_cF12_216_b_c_a": "LiMgN LiZnP LiZnN LiCdP NaZnP LiAlSi LiMgP LiMgBi",
}
"""Formulas by AFLOW label; of types with one label, the one that fits best."""
